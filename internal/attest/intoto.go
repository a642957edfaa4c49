package attest

import (
	"fmt"

	"github.com/hallmark-attest/hallmark/internal/strictjson"
)

// statementTypeV01 is what attestations of older tools have, SLSA provenance before v1 among them.
const statementTypeV01 = "https://in-toto.io/Statement/v0.1"

// inToto is a statement of any predicate type, as far as it has to be read to know what it is about.
type inToto struct {
	predicateType string
	subjects      []any // unchecked
}

// parseInToto reads a statement's bytes as in-toto has them ("Statement"). It refuses what is no statement
// (CodeStatementMalformed, CodeStatementType, CodeStatementPredicateType) and leaves the rest to the predicate type.
func parseInToto(data []byte) (st inToto, err error) {
	o, err := strictjson.DecodeObject(data)
	if err != nil {
		return st, refuse(CodeStatementMalformed, fmt.Errorf("the statement: %w", err), "")
	}
	if t, _ := o["_type"].(string); t != StatementType && t != statementTypeV01 {
		return st, refuse(CodeStatementType, fmt.Errorf("the statement's _type is %s, not %q", shown(o["_type"]), StatementType), "")
	}
	if st.predicateType, _ = o["predicateType"].(string); st.predicateType == "" {
		return st, refuse(CodeStatementPredicateType, fmt.Errorf("the predicateType is %s, not a text", shown(o["predicateType"])), "")
	}
	st.subjects, _ = o["subject"].([]any)
	return st, nil
}

// match gives the name of the first subject that has this SHA-256. in-toto matches by digest alone: what names mean is up
// to the predicate type. A subject that is none makes the statement unreadable, wherever it stands.
func (st inToto) match(sha256hex string) (name string, err error) {
	if len(st.subjects) == 0 {
		return "", refuse(CodeStatementSubjectCount, fmt.Errorf("the statement has no subject"), "")
	}
	found := false
	for i, v := range st.subjects {
		so, ok := v.(strictjson.Object)
		if !ok {
			return "", refuse(CodeStatementMalformed, fmt.Errorf("subject %d is %s, not an object", i+1, strictjson.KindOf(v)), "")
		}
		digest, ok := so["digest"].(strictjson.Object)
		if !ok {
			return "", refuse(CodeStatementDigestSet, fmt.Errorf("the digest of subject %d is %s, not an object", i+1, strictjson.KindOf(so["digest"])), "")
		}
		if hex, _ := digest["sha256"].(string); hex == sha256hex && !found {
			found = true
			name, _ = so["name"].(string)
		}
	}
	if !found {
		return "", refuse(CodeStatementDigestMismatch, fmt.Errorf("none of the statement's %d subjects has sha256 %s", len(st.subjects), sha256hex),
			"the bundle belongs to another package")
	}
	return name, nil
}
