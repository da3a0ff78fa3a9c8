// Package deploy checks the files that others deploy callstream with against what the programs accept.
package deploy

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

const (
	root        = "../.."
	composeFile = root + "/deploy/docker-compose.yml"
	dockerfile  = root + "/deploy/Dockerfile"
	exampleEnv  = root + "/deploy/.env.example"
)

// secrets are what .env.example leaves empty.
var secrets = map[string]string{
	"CALLSTREAM_ENCRYPTION_KEY":    "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=",
	"CALLSTREAM_POSTGRES_PASSWORD": "0123456789abcdef",
}

// ours are the services that run a binary of this repository.
var ours = []string{"producer", "filter", "dispatcher", "console", "topics"}

func load(t *testing.T, env types.Mapping) (*types.Project, error) {
	t.Helper()
	raw, err := os.ReadFile(composeFile)
	require.NoError(t, err)
	dir, err := filepath.Abs(filepath.Dir(composeFile))
	require.NoError(t, err)
	return loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir: dir, Environment: env,
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(dir, "docker-compose.yml"), Content: raw}},
	}, func(o *loader.Options) { o.SetProjectName("callstream", true) })
}

// example is .env.example, with its comments gone.
func example(t *testing.T) map[string]string {
	t.Helper()
	raw, err := os.ReadFile(exampleEnv)
	require.NoError(t, err)
	env := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		require.True(t, ok, line)
		env[name] = value
	}
	return env
}

// project is the compose file with .env.example and the secrets filled in.
func project(t *testing.T) *types.Project {
	t.Helper()
	env := types.Mapping{}
	for name, value := range example(t) {
		env[name] = value
	}
	for name, value := range secrets {
		require.Empty(t, env[name], "%s must not have an example value that somebody leaves in place", name)
		env[name] = value
	}
	p, err := load(t, env)
	require.NoError(t, err)
	return p
}

func TestSecretsAreRequired(t *testing.T) {
	for missing := range secrets {
		env := types.Mapping{}
		for name, value := range secrets {
			if name != missing {
				env[name] = value
			}
		}
		_, err := load(t, env)
		require.ErrorContains(t, err, missing)
		require.ErrorContains(t, err, "openssl rand", "the message says how to make one")
	}
}

func TestExampleEnvironmentNamesEveryVariable(t *testing.T) {
	raw, err := os.ReadFile(composeFile)
	require.NoError(t, err)
	used := map[string]bool{}
	for _, m := range regexp.MustCompile(`[^$]\$\{([A-Z_]+)([:?-]|\})`).FindAllStringSubmatch(string(raw), -1) {
		used[m[1]] = true
	}
	given := example(t)
	for name := range used {
		require.Contains(t, given, name)
	}
	for name := range given {
		require.True(t, used[name], "%s is in .env.example and nowhere else", name)
	}
}

func TestImagesArePinned(t *testing.T) {
	p := project(t)
	stages := dockerStages(t)
	for name, s := range p.Services {
		if s.Build != nil {
			require.Contains(t, stages, s.Build.Target, "%s is built from a stage that there is", name)
			require.Equal(t, "deploy/Dockerfile", s.Build.Dockerfile)
			_, err := os.Stat(filepath.Join(s.Build.Context, s.Build.Dockerfile))
			require.NoError(t, err)
			continue
		}
		requirePinned(t, s.Image)
	}
	for stage, from := range stages {
		if from != "scratch" && stages[from] == "" {
			requirePinned(t, from)
		}
		require.NotEmpty(t, stage, "the stage from %s has no name", from)
	}
}

// requirePinned wants a tag with a whole version in it, or a digest.
func requirePinned(t *testing.T, image string) {
	t.Helper()
	_, tag, _ := strings.Cut(path.Base(image), ":")
	require.Regexp(t, `^v?\d+\.\d+(\.\d+)?(-[a-z0-9.]+)?$|@sha256:`, tag, image)
}

func TestEverythingHasAHealthCheck(t *testing.T) {
	p := project(t)
	for name, s := range p.Services {
		if runsOnce(p, name) {
			continue
		}
		require.NotNil(t, s.HealthCheck, name)
		require.False(t, s.HealthCheck.Disable, name)
		require.Greater(t, len(s.HealthCheck.Test), 1, name)
		require.Equal(t, "CMD", s.HealthCheck.Test[0], "%s: images without a shell run their checks as they are", name)
		require.NotNil(t, s.HealthCheck.Timeout, name)
		if addr := s.Environment["CALLSTREAM_HTTP_ADDR"]; addr != nil {
			asked, err := url.Parse(s.HealthCheck.Test[len(s.HealthCheck.Test)-1])
			require.NoError(t, err)
			require.Equal(t, port(t, *addr), asked.Port(), "%s is asked where it listens", name)
		}
		for other, condition := range s.DependsOn {
			want := types.ServiceConditionHealthy
			if runsOnce(p, other) {
				want = types.ServiceConditionCompletedSuccessfully
			}
			require.Equal(t, want, condition.Condition, "%s waits for %s", name, other)
		}
	}
}

// runsOnce says whether others wait for the service's end.
func runsOnce(p *types.Project, name string) bool {
	for _, s := range p.Services {
		if d, ok := s.DependsOn[name]; ok && d.Condition == types.ServiceConditionCompletedSuccessfully {
			return p.Services[name].Restart == types.RestartPolicyNo
		}
	}
	return false
}

func port(t *testing.T, addr string) string {
	t.Helper()
	host, port, ok := strings.Cut(addr, ":")
	require.True(t, ok, addr)
	require.Equal(t, "0.0.0.0", host, "a container's port is reached from other containers")
	return port
}

func TestDispatchersCanBeScaled(t *testing.T) {
	s := project(t).Services["dispatcher"]
	require.Empty(t, s.ContainerName)
	require.Empty(t, s.Ports)
	require.Empty(t, s.Hostname)
	require.Empty(t, s.NetworkMode)
	for _, v := range s.Volumes {
		require.NotEqual(t, types.VolumeTypeVolume, v.Type, "two dispatchers can't share a volume")
	}
}

func TestContainersOfOursHaveFewRights(t *testing.T) {
	p := project(t)
	for _, name := range ours {
		s := p.Services[name]
		require.True(t, s.ReadOnly, name)
		require.Equal(t, []string{"ALL"}, s.CapDrop, name)
		require.Contains(t, s.SecurityOpt, "no-new-privileges:true", name)
	}
	for name, s := range p.Services {
		require.False(t, s.Privileged, name)
		for _, published := range s.Ports {
			require.Equal(t, "127.0.0.1", published.HostIP, "%s is published to this machine alone unless asked otherwise", name)
		}
	}
}

func TestMountedFilesExist(t *testing.T) {
	for name, s := range project(t).Services {
		for _, v := range s.Volumes {
			if v.Type == types.VolumeTypeBind {
				_, err := os.Stat(v.Source)
				require.NoError(t, err, name)
				require.True(t, v.ReadOnly, "%s: %s", name, v.Source)
			}
		}
	}
}

// TestProgramsAcceptWhatTheFileSays runs the real binaries, built as the Dockerfile builds them, with exactly the
// environment and arguments of the compose file, and one mistake: with that alone to complain about, everything else is
// accepted, and nothing is started.
func TestProgramsAcceptWhatTheFileSays(t *testing.T) {
	p := project(t)
	bin := t.TempDir()
	binaries := build(t, bin)
	t.Run("health checks", func(t *testing.T) { healthChecksAreCommandsOfOurs(t, p, bin) })
	for _, name := range ours {
		t.Run(name, func(t *testing.T) {
			s := p.Services[name]
			require.NotEmpty(t, s.Command)
			require.Equal(t, "/usr/local/bin", path.Dir(s.Command[0]))
			binary := filepath.Join(bin, path.Base(s.Command[0]))
			require.Contains(t, binaries, path.Base(s.Command[0]))
			args := s.Command[1:]

			help := run(t, binary, append(slices.Clone(args), "--help"), nil)
			require.Zero(t, help.status, help.output)
			env := []string{"CALLSTREAM_DATA_DIR=" + t.TempDir()}
			for variable, value := range s.Environment {
				require.NotNil(t, value, "%s has no value", variable)
				env = append(env, variable+"="+*value)
				if setting, ok := strings.CutPrefix(variable, "CALLSTREAM_"); ok {
					flag := "--" + strings.ToLower(strings.ReplaceAll(setting, "_", "-"))
					require.Regexp(t, `(?m)^\s+`+flag+`\s`, help.output, "%s is a setting of it", variable)
				}
			}
			got := run(t, binary, append(slices.Clone(args), "--kafka-tls=perhaps"), env)
			require.Equal(t, 2, got.status, got.output)
			require.Contains(t, got.output, "1 problem in the configuration", "and that is the one planted here")
			require.Contains(t, got.output, "--kafka-tls")
			require.NotContains(t, got.output, "warning", "no variable is misspelt")
			for _, value := range secrets {
				require.NotContains(t, got.output, value)
			}

			// A variable that it needs and isn't given would show: it is told apart from one that it doesn't read.
			without := slices.DeleteFunc(slices.Clone(env), func(v string) bool { return strings.HasPrefix(v, "CALLSTREAM_SCHEMA_REGISTRY_URL=") })
			if name != "topics" {
				got = run(t, binary, append(slices.Clone(args), "--kafka-tls=perhaps"), without)
				require.Contains(t, got.output, "CALLSTREAM_SCHEMA_REGISTRY_URL")
			}
		})
	}
}

// healthChecksAreCommandsOfOurs makes sure that what the health checks run exists.
func healthChecksAreCommandsOfOurs(t *testing.T, p *types.Project, bin string) {
	t.Helper()
	for name, s := range p.Services {
		if s.HealthCheck == nil || len(s.HealthCheck.Test) < 3 || s.HealthCheck.Test[1] != "/usr/local/bin/callstream" {
			continue
		}
		args := slices.Clone([]string(s.HealthCheck.Test[2:]))
		require.Equal(t, "health", args[0], name)
		got := run(t, filepath.Join(bin, "callstream"), append(args, "--help"), nil)
		require.Zero(t, got.status, got.output)
		require.Contains(t, got.output, "exit with status 0")
	}
}

func TestPrometheusReadsEveryService(t *testing.T) {
	raw, err := os.ReadFile(root + "/deploy/prometheus/prometheus.yml")
	require.NoError(t, err)
	var cfg struct {
		Jobs []struct {
			Name string `yaml:"job_name"`
			DNS  []struct {
				Names []string `yaml:"names"`
				Type  string   `yaml:"type"`
				Port  int      `yaml:"port"`
			} `yaml:"dns_sd_configs"`
		} `yaml:"scrape_configs"`
	}
	require.NoError(t, yaml.Unmarshal(raw, &cfg))
	read := map[string]string{}
	for _, job := range cfg.Jobs {
		for _, d := range job.DNS {
			require.Equal(t, "A", d.Type)
			read[d.Names[0]] = fmt.Sprint(d.Port)
		}
	}
	for name, s := range project(t).Services {
		if addr := s.Environment["CALLSTREAM_HTTP_ADDR"]; addr != nil {
			require.Equal(t, port(t, *addr), read[name], "%s is read where it listens", name)
			delete(read, name)
		}
	}
	require.Empty(t, read, "jobs for what there isn't")
}

func TestServicesReachWhatTheyName(t *testing.T) {
	p := project(t)
	names := p.ServiceNames()
	for _, name := range ours {
		for variable, value := range p.Services[name].Environment {
			host := ""
			switch variable {
			case "CALLSTREAM_KAFKA_BROKERS", "CALLSTREAM_OTLP_ENDPOINT":
				host, _, _ = strings.Cut(*value, ":")
			case "CALLSTREAM_SCHEMA_REGISTRY_URL", "CALLSTREAM_DATABASE_URL":
				u, err := url.Parse(*value)
				require.NoError(t, err)
				host = u.Hostname()
			default:
				continue
			}
			require.Contains(t, names, host, "%s of %s", variable, name)
		}
	}
	kafka := p.Services["kafka"].Environment
	require.Contains(t, *kafka["KAFKA_ADVERTISED_LISTENERS"], "://"+*p.Services["producer"].Environment["CALLSTREAM_KAFKA_BROKERS"],
		"services connect to an address that the broker advertises")
	// What several services are told must be the same for all of them.
	for _, variable := range []string{"CALLSTREAM_KAFKA_BROKERS", "CALLSTREAM_SCHEMA_REGISTRY_URL", "CALLSTREAM_ENCRYPTION_KEY", "CALLSTREAM_RETRY_SCHEDULE"} {
		seen := map[string]bool{}
		for _, name := range ours {
			if value := p.Services[name].Environment[variable]; value != nil {
				seen[*value] = true
			}
		}
		require.Len(t, seen, 1, variable)
	}
}

// dockerStages are the stages of the Dockerfile with the image that each starts from.
func dockerStages(t *testing.T) map[string]string {
	t.Helper()
	stages := map[string]string{}
	for _, in := range instructions(t) {
		if in[0] == "FROM" {
			require.Len(t, in, 4, "%v", in)
			require.Equal(t, "AS", in[2])
			stages[in[3]] = in[1]
		}
	}
	return stages
}

// instructions are the Dockerfile's lines, continued ones joined, split into words.
func instructions(t *testing.T) [][]string {
	t.Helper()
	raw, err := os.ReadFile(dockerfile)
	require.NoError(t, err)
	var list [][]string
	for line := range strings.SplitSeq(strings.ReplaceAll(string(raw), "\\\n", " "), "\n") {
		if words := strings.Fields(line); len(words) > 0 && !strings.HasPrefix(words[0], "#") {
			list = append(list, words)
		}
	}
	return list
}

func TestDockerfileCopiesWhatThereIs(t *testing.T) {
	stages := dockerStages(t)
	copied := map[string]bool{}
	for _, in := range instructions(t) {
		if in[0] != "COPY" {
			continue
		}
		words := in[1:]
		from := ""
		for len(words) > 0 && strings.HasPrefix(words[0], "--") {
			if stage, ok := strings.CutPrefix(words[0], "--from="); ok {
				from = stage
			}
			words = words[1:]
		}
		if from != "" {
			require.Contains(t, stages, from)
			continue
		}
		for _, source := range words[:len(words)-1] {
			_, err := os.Stat(filepath.Join(root, source))
			require.NoError(t, err, "COPY %s", source)
			copied[source] = true
		}
	}
	// Every module of the workspace must be in the image that builds, or go.work names what isn't there.
	work, err := os.ReadFile(root + "/go.work")
	require.NoError(t, err)
	for _, m := range regexp.MustCompile(`(?m)^\t\./(\S+)$`).FindAllStringSubmatch(string(work), -1) {
		top, _, _ := strings.Cut(m[1], "/")
		require.True(t, copied[top], "module %s is not copied", m[1])
	}
	// And nothing of it may be kept from the build.
	ignored, err := os.ReadFile(dockerfile + ".dockerignore")
	require.NoError(t, err)
	for source := range copied {
		require.Regexp(t, `(?m)^!`+regexp.QuoteMeta(source)+`$`, string(ignored))
	}
}

func TestDockerfileBuildsStaticBinariesForAnUnprivilegedUser(t *testing.T) {
	var user string
	static := false
	stage := ""
	for _, in := range instructions(t) {
		line := strings.Join(in, " ")
		switch in[0] {
		case "FROM":
			stage = in[3]
		case "ENV":
			static = static || strings.Contains(line, "CGO_ENABLED=0")
		case "USER":
			if stage == "callstream" {
				user = in[1]
			}
		}
	}
	require.True(t, static)
	require.Regexp(t, `^[1-9]\d*:[1-9]\d*$`, user, "a number, since the image has no list of users, and not root")
	require.Equal(t, "scratch", dockerStages(t)["callstream"])
	// The toolchain of the image must be one that the workspace accepts.
	work, err := os.ReadFile(root + "/go.work")
	require.NoError(t, err)
	want := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(string(work))[1]
	require.True(t, strings.HasPrefix(dockerStages(t)["build"], "golang:"+want+"."), dockerStages(t)["build"])
}

// build builds what the Dockerfile builds, as it does, and returns the binaries' names.
func build(t *testing.T, dir string) []string {
	t.Helper()
	var packages, binaries []string
	for _, in := range instructions(t) {
		if in[0] != "RUN" {
			continue
		}
		for _, word := range in {
			if strings.HasPrefix(word, "./services/") {
				packages = append(packages, word)
				binaries = append(binaries, path.Base(word))
			}
		}
	}
	require.NotEmpty(t, packages)
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"build", "-ldflags=-s -w", "-o", dir + "/"}, packages...)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	return binaries
}

type outcome struct {
	status int
	output string
}

// run runs a binary with exactly this environment.
func run(t *testing.T, binary string, args, env []string) outcome {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append([]string{"PATH=/usr/local/bin"}, env...)
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	if err != nil {
		require.IsType(t, &exec.ExitError{}, err, string(out))
	}
	return outcome{status: cmd.ProcessState.ExitCode(), output: string(out)}
}
