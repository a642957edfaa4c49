package writers_test

import "syscall"

// dieWithParent has the kernel end a writer when the test binary dies, however it dies.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
