// Package docs reads the project's own pages: Markdown flows in; its fenced blocks and the command lines in them flow out.
// Tests hold the pages to what the programs really take.
package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Block is a fenced block.
type Block struct {
	File string // its name, for messages
	Line int    // of the opening fence, from 1
	Lang string // "sh", "yaml", ""
	Text string
}

func (b Block) String() string { return fmt.Sprintf("%s:%d", b.File, b.Line) }

// Pages gives the fenced blocks of the README and of every page in docs. root is the repository's folder.
func Pages(root string) ([]Block, error) {
	files, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		return nil, err
	}
	var all []Block
	for _, f := range append(files, filepath.Join(root, "README.md")) {
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("reading a page: %w", err)
		}
		all = append(all, Blocks(filepath.Base(f), string(data))...)
	}
	return all, nil
}

// Blocks gives a page's fenced blocks. A block that is not closed goes to the end.
func Blocks(file, markdown string) []Block {
	var all []Block
	var open *Block
	n := 0
	for l := range strings.Lines(markdown) {
		n++
		lang, fence := strings.CutPrefix(strings.TrimSpace(l), "```")
		switch {
		case fence && open == nil:
			open = &Block{File: file, Line: n, Lang: lang}
		case fence:
			all, open = append(all, *open), nil
		case open != nil:
			open.Text += l
		}
	}
	if open != nil {
		all = append(all, *open)
	}
	return all
}

// Commands gives the arguments of each command line in the blocks that runs one of the program's: in shell blocks, and in the
// steps of CI jobs. A word may have an ellipsis, as in "PACKAGE…".
func Commands(blocks []Block, program string) (all []Command, err error) {
	for _, b := range blocks {
		text := b.Text
		switch b.Lang {
		case "sh":
		case "yaml":
			if text, err = steps(b); err != nil {
				return nil, err
			}
		default:
			continue
		}
		for _, words := range lines(text) {
			if words[0] == program {
				all = append(all, Command{Block: b, Args: words[1:]})
			}
		}
	}
	return all, nil
}

// Command is one command line of a page.
type Command struct {
	Block
	Args []string // without the program
}

// steps gives what a workflow's steps or a job's script run, as shell text.
func steps(b Block) (string, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(b.Text), &doc); err != nil {
		return "", fmt.Errorf("%s: %w", b, err)
	}
	var text strings.Builder
	var walk func(n *yaml.Node)
	walk = func(n *yaml.Node) {
		for i, c := range n.Content {
			if n.Kind == yaml.MappingNode && i%2 == 1 {
				switch key := n.Content[i-1].Value; {
				case key == "run" && c.Kind == yaml.ScalarNode:
					text.WriteString(c.Value + "\n")
				case key == "script" && c.Kind == yaml.SequenceNode:
					for _, l := range c.Content {
						text.WriteString(l.Value + "\n")
					}
				}
			}
			walk(c)
		}
	}
	walk(&doc)
	return text.String(), nil
}

// lines splits shell text into commands and these into words: quotes, continued lines, comments, and what joins commands. It
// is for the plain commands of a page, not for scripts.
func lines(text string) [][]string {
	var all [][]string
	var words []string
	var word strings.Builder
	inWord, quote := false, rune(0)
	endWord := func() {
		if inWord {
			words = append(words, word.String())
		}
		word.Reset()
		inWord = false
	}
	end := func() {
		endWord()
		// Settings before the command, and redirections after it, are the shell's.
		for len(words) > 0 && strings.Contains(words[0], "=") && !strings.HasPrefix(words[0], "-") {
			words = words[1:]
		}
		if i := slices.IndexFunc(words, func(w string) bool { return w == ">" || w == "2>" || w == "<" }); i >= 0 {
			words = words[:i]
		}
		if len(words) > 0 {
			all = append(all, words)
		}
		words = nil
	}
	runes := []rune(strings.ReplaceAll(text, "\\\n", " ") + "\n")
	for i := 0; i < len(runes); i++ {
		r := runes[i]
		switch {
		case quote != 0:
			if r == quote {
				quote = 0
			} else {
				word.WriteRune(r)
			}
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == '#' && !inWord:
			for runes[i] != '\n' {
				i++
			}
			end()
		case r == '\n' || r == ';' || r == '|' || r == '&' || r == '(' && !inWord || r == ')':
			end()
		case r == ' ' || r == '\t':
			endWord()
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	return all
}
