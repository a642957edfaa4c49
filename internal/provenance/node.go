package provenance

import "go.yaml.in/yaml/v3"

// fields are a mapping's values by key. A key that is there twice, or a merge, would be read differently by others.
func fields(n *yaml.Node) (map[string]*yaml.Node, *Error) {
	n = resolved(n)
	if n == nil || n.Kind != yaml.MappingNode {
		return nil, nil
	}
	m := make(map[string]*yaml.Node, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := resolved(n.Content[i])
		if key.Tag == "!!merge" {
			return nil, refuse(CodeRecipeMalformed, "", "the recipe has a merge key in line %d", key.Line)
		}
		if _, twice := m[key.Value]; twice {
			return nil, refuse(CodeRecipeMalformed, "", "the recipe has the key %q twice, in line %d", clip(key.Value, 100), key.Line)
		}
		m[key.Value] = n.Content[i+1]
	}
	return m, nil
}

// texts are the scalars of a list, or the one that is none.
func texts(n *yaml.Node) []string {
	list, _ := strictTexts(n)
	return list
}

func strictTexts(n *yaml.Node) (list []string, ok bool) {
	if n = resolved(n); n == nil || isNull(n) {
		return nil, true
	}
	nodes := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		nodes = n.Content
	}
	ok = true
	for _, c := range nodes {
		if c = resolved(c); c.Kind != yaml.ScalarNode || isNull(c) || c.Value == "" || len(list) > maxSources {
			ok = false
			continue
		}
		list = append(list, c.Value)
	}
	return list, ok
}

func isNull(n *yaml.Node) bool {
	n = resolved(n)
	return n.Kind == yaml.ScalarNode && n.Tag == "!!null"
}

// resolved follows an alias; yaml.v3 gives none that leads to another.
func resolved(n *yaml.Node) *yaml.Node {
	if n != nil && n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}
