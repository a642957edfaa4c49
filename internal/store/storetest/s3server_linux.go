package storetest

import (
	"io/fs"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// dieWithParent has the kernel end the child when the test binary dies, however it dies.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }

// ownedByUs guards against starting a program that another user has left in a shared temporary directory.
func ownedByUs(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Getuid()
}

// memoryDir is a directory in memory if that file system takes extended attributes, else on disk.
func memoryDir(t testing.TB) string {
	const shm = "/dev/shm"
	dir, err := os.MkdirTemp(shm, "hallmark-s3-")
	if err != nil {
		return t.TempDir()
	}
	if err := unix.Setxattr(dir, "user.hallmark", []byte("x"), 0); err != nil {
		os.Remove(dir)
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
