package queue

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// EmbedOptions are the choices of an embedded server. The zero value is usable.
type EmbedOptions struct {
	// Listen is a loopback address and port ("127.0.0.1:4222", port 0 for any free one) where other processes of this
	// machine may connect. Empty: nobody but this process can. There is no authentication, so other addresses are refused.
	Listen string
	// MaxStore bounds what the streams take on disk, in bytes. Default: what they take now and 80% of what is free; when that
	// is used up and more has become free since, it grows.
	MaxStore int64
	// StartTimeout bounds the recovery of what is stored. Default 60 s.
	StartTimeout time.Duration
	// Log gets the server's log: debug for what it says, warn for warnings and errors. Default slog.Default().
	Log *slog.Logger
}

// InUseError says that another process has the directory. It matches ErrInUse.
type InUseError struct {
	Dir string
	PID int // of the process that holds it; 0 if it could not be read
}

// ErrInUse is what every InUseError matches.
var ErrInUse = errors.New("queue directory is in use")

func (e *InUseError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("queue directory %s is in use by another process", e.Dir)
	}
	return fmt.Sprintf("queue directory %s is in use by process %d", e.Dir, e.PID)
}

// Is matches ErrInUse.
func (e *InUseError) Is(target error) bool { return target == ErrInUse }

// Server is a NATS server with JetStream in this process. Its methods are safe for concurrent use.
type Server struct {
	lock *os.File
	died bool
	log  *slog.Logger
	once sync.Once

	mu sync.Mutex
	s  *server.Server // another one after each restart, see mender

	mender mender
}

// Embed starts a server that keeps its streams in dir, which is created if need be. Every acknowledged write is on the
// disk (fsync). One process at a time may have a directory; a second one gets an *InUseError. The caller MUST Close it.
//
// When the server cannot write (the disk is full, there are no file descriptors), it says so in the log and takes nothing
// more; what it has is safe. Once it can, it starts itself anew: to its clients that is an outage, which they outlast.
func Embed(dir string, o EmbedOptions) (*Server, error) {
	log := o.Log
	if log == nil {
		log = slog.Default()
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("opening queue directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening queue directory: %w", err)
	}
	lock, died, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	e := &Server{lock: lock, died: died, log: log}
	if err := sweepRoom(dir); err != nil {
		log.Warn("clearing the queue directory", "error", err)
	}
	e.mender = mender{e: e, dir: dir, o: o, trouble: make(chan string, 1), stop: make(chan struct{})}
	if err := e.start(dir, o); err != nil {
		e.Close()
		return nil, fmt.Errorf("starting the embedded server in %s: %w", dir, err)
	}
	if o.Listen != "" {
		e.mender.o.Listen = e.running().Addr().String() // after a restart at the same place
	}
	e.mender.ended.Go(e.mender.watch)
	return e, nil
}

// running is the server as it is now; nil if there is none.
func (e *Server) running() *server.Server {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.s
}

func (e *Server) start(dir string, o EmbedOptions) error {
	maxStore := o.MaxStore
	if maxStore == 0 {
		var err error
		if maxStore, e.mender.reserve, err = defaultMaxStore(dir, e.mender.reserve); err != nil {
			return err
		}
	}
	e.mender.limit = maxStore
	opts := &server.Options{
		ServerName:             "hallmark",
		DontListen:             true,
		JetStream:              true,
		StoreDir:               dir,
		JetStreamMaxStore:      maxStore,
		SyncAlways:             true,
		NoSigs:                 true, // signals are the command's business
		DisableJetStreamBanner: true,
	}
	if o.Listen != "" {
		host, port, err := net.SplitHostPort(o.Listen)
		if err != nil {
			return fmt.Errorf("listen address: %w", err)
		}
		if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
			return fmt.Errorf("listen address %s: only loopback addresses are served, as there is no authentication; run a NATS server of its own for other machines", o.Listen)
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return fmt.Errorf("listen address %s: bad port", o.Listen)
		}
		opts.DontListen, opts.Host, opts.Port = false, host, int(n)
		if n == 0 {
			opts.Port = server.RANDOM_PORT
		}
	}
	s, err := server.NewServer(opts)
	if err != nil {
		return err
	}
	s.SetLoggerV2(serverLog{e.log.With("component", "nats"), e.mender.hear}, false, false, false)
	e.mu.Lock()
	e.s = s
	e.mu.Unlock()
	s.Start()
	timeout := o.StartTimeout
	if timeout == 0 {
		timeout = time.Minute
	}
	if !s.ReadyForConnections(timeout) {
		return fmt.Errorf("not ready after %v", timeout)
	}
	if !s.JetStreamEnabled() {
		return errors.New("JetStream did not start; the log has the reason")
	}
	return nil
}

// minReserve is what stays free at least: a batch is on the disk twice while it is stored.
const minReserve = 4 << 20

// defaultMaxStore bounds the streams below the disk's size. A stream that meets a full disk stays wedged until the server
// starts again, while one that meets this limit refuses writes cleanly and goes on once there is room. What is stored
// already counts: a limit below it would keep the streams from being recovered. reserve is what is to stay free: 0 for a fifth
// of what is free now; the one that holds is returned.
func defaultMaxStore(dir string, reserve int64) (limit, reserved int64, err error) {
	free, err := freeBytes(dir)
	if err != nil {
		return 0, 0, fmt.Errorf("asking for the free disk space: %w", err)
	}
	var used int64
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if fi, err := d.Info(); err == nil {
			used += fi.Size()
		}
		return nil
	})
	if err != nil {
		return 0, 0, fmt.Errorf("measuring what is stored: %w", err)
	}
	if reserve == 0 {
		reserve = max(free/5, minReserve)
	}
	return max(used+max(free-reserve, 0), 1), reserve, nil // 0 would be a limit of the server's own
}

// Connect connects within the process, without a socket. It takes the same options as Connect over the network, of
// which only the name and the log matter here.
func (e *Server) Connect(o ConnectOptions) (*nats.Conn, error) {
	nc, err := nats.Connect("", append(o.common(), nats.InProcessServer(door{e}))...)
	if err != nil {
		return nil, fmt.Errorf("connecting to the embedded server: %w", err)
	}
	return nc, nil
}

// door leads to the server as it is now.
type door struct{ e *Server }

// InProcessConn implements nats.InProcessConnProvider.
func (d door) InProcessConn() (net.Conn, error) { return d.e.running().InProcessConn() }

// URL is where other processes of this machine connect; "" if the server does not listen.
func (e *Server) URL() string {
	if a, ok := e.running().Addr().(*net.TCPAddr); ok {
		return "nats://" + a.String()
	}
	return ""
}

// Died reports whether the process that had the directory before ended without closing the server. What it wrote is there;
// how often it had handed an item out may not be.
func (e *Server) Died() bool { return e.died }

// Close stops the server, waits until it has ended and gives the directory free. Connections are ended, so close them
// first. Calling it again does nothing.
func (e *Server) Close() {
	e.once.Do(func() {
		close(e.mender.stop)
		e.mender.ended.Wait()
		if s := e.running(); s != nil {
			s.Shutdown()
			s.WaitForShutdown()
		}
		// Unlocked, not only closed: a child that another goroutine is just starting may hold a copy of the file until
		// it has become its own program.
		_ = e.lock.Truncate(0) // else the next one takes this for a death, which is harmless
		unlock(e.lock)
		e.lock.Close()
	})
}

// lockDir takes the directory's lock and leaves this process's id in it. died says that the one before is still there: its
// process did not take it out.
func lockDir(dir string) (f *os.File, died bool, err error) {
	f, err = os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, false, fmt.Errorf("locking queue directory: %w", err)
	}
	ok, err := tryLock(f)
	if err == nil && ok {
		if st, statErr := f.Stat(); statErr == nil {
			died = st.Size() > 0
		}
		// In this order it also works on a full disk, and never takes the mark of a death away without leaving its own.
		pid := strconv.Itoa(os.Getpid()) + "\n"
		if _, err = f.WriteAt([]byte(pid), 0); err == nil {
			err = f.Truncate(int64(len(pid)))
		}
	}
	if err != nil {
		f.Close()
		return nil, false, fmt.Errorf("locking queue directory %s: %w", dir, err)
	}
	if !ok {
		defer f.Close()
		b := make([]byte, 20)
		n, _ := f.ReadAt(b, 0)
		pid, _ := strconv.Atoi(strings.TrimSpace(string(b[:n]))) // 0: the holder has not written it yet
		return nil, false, &InUseError{Dir: dir, PID: pid}
	}
	return f, died, nil
}

// serverLog gives the server's log to slog. Fatalf only logs: a library does not end the process; Embed notices that the
// server is not ready.
type serverLog struct {
	log  *slog.Logger
	hear func(said string)
}

func (l serverLog) Noticef(f string, v ...any) { l.log.Debug(fmt.Sprintf(f, v...)) }
func (l serverLog) Debugf(f string, v ...any)  { l.log.Debug(fmt.Sprintf(f, v...)) }
func (l serverLog) Tracef(f string, v ...any)  { l.log.Debug(fmt.Sprintf(f, v...)) }
func (l serverLog) Fatalf(f string, v ...any)  { l.log.Error(fmt.Sprintf(f, v...)) }
func (l serverLog) Warnf(f string, v ...any)   { l.Errorf(f, v...) }
func (l serverLog) Errorf(f string, v ...any) {
	said := fmt.Sprintf(f, v...)
	l.log.Warn(said)
	l.hear(said)
}
