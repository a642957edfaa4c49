//go:build !linux

package writers_test

import "syscall"

func dieWithParent() *syscall.SysProcAttr { return nil }
