//go:build !linux

package storetest

import (
	"io/fs"
	"syscall"
	"testing"
)

// Elsewhere a test binary that is killed leaves its server behind; temporary directories are the user's own.
func dieWithParent() *syscall.SysProcAttr { return nil }
func ownedByUs(fs.FileInfo) bool          { return true }
func memoryDir(t testing.TB) string       { return t.TempDir() }
