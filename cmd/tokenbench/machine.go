package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
)

// machine is what a reader must know of where it was measured. No names and no paths.
type machine struct {
	processors int
	model      string // of the processor
	memory     int64  // bytes
	kernel     string
	goVersion  string
	redis      string // version of redis-server
	files      string // the kind of file system that Redis wrote to
}

func (m machine) String() string {
	text := fmt.Sprintf("%d processors", m.processors)
	if m.model != "" {
		text += " (" + m.model + ")"
	}
	text += fmt.Sprintf(", %d GiB, Linux %s; %s, Redis %s; append-only files on %s", m.memory>>30, m.kernel, m.goVersion, m.redis, m.files)
	if m.files == "tmpfs" {
		text += " (**in memory: an fsync costs nothing there**)"
	}
	return text
}

// lookAtMachine reads the facts; what can't be read is left out.
func lookAtMachine(redisServer, dir string) machine {
	m := machine{processors: runtime.NumCPU(), goVersion: runtime.Version(), files: "an unknown file system"}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if f := regexp.MustCompile(`(?m)^model name\s*:\s*(.+)$`).FindSubmatch(text); f != nil {
			m.model = string(f[1])
		}
	}
	var info syscall.Sysinfo_t
	if syscall.Sysinfo(&info) == nil {
		m.memory = int64(info.Totalram) * int64(info.Unit)
	}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.kernel, _, _ = strings.Cut(strings.TrimSpace(string(text)), "-")
	}
	if text, err := exec.Command(redisServer, "--version").Output(); err == nil {
		if f := regexp.MustCompile(`v=(\S+)`).FindSubmatch(text); f != nil {
			m.redis = string(f[1])
		}
	}
	var fs syscall.Statfs_t
	if syscall.Statfs(dir, &fs) == nil {
		switch fs.Type {
		case 0x01021994:
			m.files = "tmpfs"
		case 0xef53:
			m.files = "ext4"
		case 0x58465342:
			m.files = "xfs"
		case 0x9123683e:
			m.files = "btrfs"
		case 0x794c7630:
			m.files = "overlayfs"
		default:
			m.files = fmt.Sprintf("a file system of type %#x", fs.Type)
		}
	}
	return m
}
