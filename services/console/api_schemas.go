package console

import (
	"maps"
	"reflect"
	"slices"

	"github.com/callstream/callstream/pkg/problem"
	"github.com/danielgtaylor/huma/v2"
)

// problemDocument describes what problem.Problem writes.
type problemDocument struct {
	Type     string          `json:"type" doc:"about:blank where the status says it all"`
	Title    string          `json:"title,omitempty"`
	Status   int             `json:"status"`
	Detail   string          `json:"detail,omitempty" doc:"for people"`
	Instance string          `json:"instance,omitempty"`
	Errors   []problem.Fault `json:"errors,omitempty" doc:"every fault with its place in the body: a JSON pointer as a URI fragment"`
}

// describeProblems puts the description of the problems that are sent in the place of that of huma's own.
func describeProblems(schemas huma.Registry) {
	described := huma.SchemaFromType(schemas, reflect.TypeFor[problemDocument]())
	described.AdditionalProperties = true
	schemas.Map()["ErrorModel"] = described
	delete(schemas.Map(), "ErrorDetail")
}

// patchSchema describes a merge patch of a subscription, under a name of its own: no member has to be there, and null
// removes one, but for those that a subscription can't be without.
func patchSchema(a *apiSet, name string, needed ...string) *huma.Schema {
	ref := subscriptionSchema(a, name)
	schemas := a.api.OpenAPI().Components.Schemas
	patch := mergePatch(schemas, schemas.Map()[name])
	patch.Nullable = false
	for _, member := range needed {
		patch.Properties[member].Nullable = false
	}
	schemas.Map()[name] = patch
	return ref
}

// mergePatch describes a merge patch of what a schema describes.
func mergePatch(schemas huma.Registry, of *huma.Schema) *huma.Schema {
	patch := *of
	if of.Ref != "" {
		patch = *schemas.SchemaFromRef(of.Ref)
		patch.Description = of.Description
	}
	patch.Required, patch.Nullable = nil, patch.Type != ""
	if len(patch.Enum) > 0 && patch.Nullable {
		patch.Enum = append(slices.Clone(patch.Enum), nil)
	}
	patch.Properties = maps.Clone(patch.Properties)
	for member, property := range patch.Properties {
		if property.ReadOnly {
			delete(patch.Properties, member)
			continue
		}
		patch.Properties[member] = mergePatch(schemas, property)
	}
	if values, ok := patch.AdditionalProperties.(*huma.Schema); ok {
		patch.AdditionalProperties = mergePatch(schemas, values)
	}
	return &patch
}
