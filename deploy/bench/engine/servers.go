package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// measure starts the arm's servers with an empty store, has a worker's process do the task, and looks at all of them.
func measure(ctx context.Context, a arm, bin, dir string, t task) (Result, error) {
	r := Result{Arm: a.Name, Segments: t.Segments, Waiting: t.Items, Done: t.Done}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	servers, urls, err := start(ctx, a, bin, dir)
	defer func() {
		for _, s := range servers {
			_ = s.Process.Signal(syscall.SIGTERM)
			_ = s.Wait() // its store is thrown away
		}
	}()
	if err != nil {
		return r, err
	}
	t.URL, t.State = strings.Join(urls, ","), filepath.Join(dir, "state")
	if a.Servers > 1 {
		t.Replicas = a.Servers
	}
	arg, err := json.Marshal(t)
	if err != nil {
		return r, err
	}
	self, err := os.Executable()
	if err != nil {
		return r, err
	}
	cmd := exec.CommandContext(ctx, self, "-child", string(arg))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return r, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return r, err
	}
	if err := cmd.Start(); err != nil {
		return r, err
	}
	var before, after seen
	told := false
	for lines := bufio.NewScanner(out); lines.Scan() && err == nil; {
		switch line := lines.Text(); line {
		case "ready":
			if before, err = lookAll(servers); err == nil {
				r.ServerRSS = before.rss
				_, err = in.Write([]byte("go on\n"))
			}
		case "done":
			after, err = lookAll(servers)
			r.ServerCPU, r.ServerWrote = after.cpu-before.cpu, after.wrote-before.wrote
		default:
			err = json.Unmarshal([]byte(line), &r.Figures)
			told = true
		}
	}
	err = errors.Join(err, cmd.Wait())
	if err == nil && !told {
		err = errors.New("the worker's process said nothing")
	}
	if err == nil {
		r.Stored, err = size(dir)
	}
	return r, err
}

// start starts the arm's servers.
func start(ctx context.Context, a arm, bin, dir string) (servers []*exec.Cmd, urls []string, err error) {
	ports, err := freePorts(2 * a.Servers)
	if err != nil {
		return nil, nil, err
	}
	sync := "2m"
	if a.Always {
		sync = "always"
	}
	var routes []string
	for k := range a.Servers {
		routes = append(routes, fmt.Sprintf("nats://127.0.0.1:%d", ports[a.Servers+k]))
	}
	for k := range a.Servers {
		name := fmt.Sprintf("n%d", k+1)
		text := fmt.Sprintf("server_name: %s\nlisten: \"127.0.0.1:%d\"\njetstream { store_dir: %q, sync_interval: %s, max_file_store: 64G }\n", name, ports[k], filepath.Join(dir, name), sync)
		if a.Servers > 1 {
			text += fmt.Sprintf("cluster { name: bench, listen: \"127.0.0.1:%d\", routes: [%s] }\n", ports[a.Servers+k], strings.Join(routes, ", "))
		}
		config := filepath.Join(dir, name+".conf")
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return servers, nil, err
		}
		cmd := exec.CommandContext(ctx, bin, "-c", config, "-l", config+".log")
		if err := cmd.Start(); err != nil {
			return servers, nil, err
		}
		servers, urls = append(servers, cmd), append(urls, fmt.Sprintf("nats://127.0.0.1:%d", ports[k]))
	}
	return servers, urls, nil
}

func freePorts(n int) ([]int, error) {
	var out []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // all are held until all are known
		out = append(out, l.Addr().(*net.TCPAddr).Port)
	}
	return out, nil
}

// seen is what the kernel tells of processes.
type seen struct {
	rss   int64   // bytes
	cpu   float64 // seconds so far
	wrote int64   // bytes so far
}

// lookAll adds the servers up, but for the memory, which is the largest one's.
func lookAll(servers []*exec.Cmd) (all seen, err error) {
	for _, s := range servers {
		one, err := look(s.Process.Pid)
		if err != nil {
			return all, err
		}
		all.rss, all.cpu, all.wrote = max(all.rss, one.rss), all.cpu+one.cpu, all.wrote+one.wrote
	}
	return all, nil
}

// size is what the files below the folder take.
func size(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) { // servers tidy up
			return nil
		}
		if err == nil {
			n += fi.Size()
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return n, err
}
