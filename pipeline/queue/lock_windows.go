package queue

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// lockOffset is far behind the pid in the file: a locked range cannot be read by others on Windows.
const lockOffset = 1 << 20

// tryLock takes the file's exclusive lock without waiting. The system gives it back when the process ends.
func tryLock(f *os.File) (bool, error) {
	err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY,
		0, 1, 0, &windows.Overlapped{Offset: lockOffset})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return false, nil
	}
	return err == nil, err
}

// freeBytes is what this process can still write to the disk that holds dir.
func freeBytes(dir string) (int64, error) {
	p, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return 0, err
	}
	var avail uint64
	if err := windows.GetDiskFreeSpaceEx(p, &avail, nil, nil); err != nil {
		return 0, err
	}
	return int64(avail), nil
}

// unlock does nothing: closing the file gives its lock back.
func unlock(*os.File) {}
