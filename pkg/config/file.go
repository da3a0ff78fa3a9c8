package config

import (
	"fmt"
	"path/filepath"
	"strings"

	"gopkg.in/yaml.v3"
)

// loadFile reads a flat YAML mapping. It works on nodes, since a problem is to name its line.
func loadFile(name string, read func(string) ([]byte, error), set *settings, src Source, errs *Errors) {
	raw, err := read(name)
	if err != nil {
		errs.add(prefix+fileKey, "the file can't be read: %v", err)
		return
	}
	short := filepath.Base(name)
	var doc yaml.Node
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		errs.add(name, "it is not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
		return
	}
	if len(doc.Content) == 0 {
		return // an empty file
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		errs.add(fmt.Sprintf("%s line %d", short, root.Line), "the file must hold settings as key: value")
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		k, v := root.Content[i], root.Content[i+1]
		for v.Kind == yaml.AliasNode {
			v = v.Alias
		}
		where := fmt.Sprintf("%s line %d, %s", short, k.Line, k.Value)
		s := set.byKey[strings.ToUpper(k.Value)]
		if s == nil || k.Value != strings.ToLower(k.Value) {
			near := nearest(strings.ToUpper(k.Value), set.keys())
			switch {
			case near != "":
				errs.add(where, "there is no such setting; did you mean %s?", strings.ToLower(near))
			case src.Complete:
				errs.add(where, "there is no such setting; --help lists them all")
			case src.Warn != nil:
				src.Warn(where + ": not a setting of this service, and ignored")
			}
			continue
		}
		if first, ok := seen[s.key]; ok {
			errs.add(where, "it is set before, in line %d; remove one", first)
			continue
		}
		seen[s.key] = k.Line
		switch v.Kind {
		case yaml.ScalarNode:
			if v.Tag == "!!null" {
				continue // "key:" with nothing after it leaves the default
			}
			s.apply(value{text: v.Value, where: where}, errs)
		case yaml.SequenceNode:
			if !s.isSlice() {
				errs.add(where, "it takes one value, not a list")
				continue
			}
			in := value{seq: true, where: where}
			for _, item := range v.Content {
				for item.Kind == yaml.AliasNode {
					item = item.Alias
				}
				if item.Kind != yaml.ScalarNode {
					errs.add(fmt.Sprintf("%s line %d, %s", short, item.Line, k.Value), "each item must be one value")
					in.list = nil
					break
				}
				in.list = append(in.list, item.Value)
			}
			s.apply(in, errs)
		default:
			errs.add(where, "it takes a value, not a mapping; settings are not nested")
		}
	}
}
