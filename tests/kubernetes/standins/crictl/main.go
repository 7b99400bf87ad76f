// crictl stands in for cri-tools, which Debian lacks and kubeadm 1.20 calls: the commands that
// kubeadm and an installer use, over CRI v1alpha2, with crictl's own flags and output where read.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"sort"
	"strings"
	"time"

	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1alpha2"
)

const defaultSocket = "unix:///run/containerd/containerd.sock"

// call is one command line after its global flags.
type call struct {
	context context.Context
	runtime cri.RuntimeServiceClient
	images  cri.ImageServiceClient
	quiet   bool
	all     bool
	name    string
	args    []string
}

// command is one sub-command: how many arguments it needs at least, and what it does.
type command struct {
	needs int
	run   func(*call) error
}

var commands = map[string]command{
	"version":  {0, version},
	"info":     {0, info},
	"pull":     {1, pull},
	"inspecti": {1, inspectImages},
	"images":   {0, listImages},
	"rmi":      {1, removeImages},
	"pods":     {0, listPods},
	"stopp":    {1, stopPods},
	"rmp":      {1, removePods},
	"ps":       {0, listContainers},
	"logs":     {1, logs},
	"exec":     {2, execute},
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "crictl:", err)
		os.Exit(1)
	}
}

func run(line []string) error {
	global := flag.NewFlagSet("crictl", flag.ContinueOnError)
	socket := os.Getenv("CONTAINER_RUNTIME_ENDPOINT")
	if socket == "" {
		socket = defaultSocket
	}
	for _, name := range []string{"r", "runtime-endpoint"} {
		global.StringVar(&socket, name, socket, "the runtime's socket")
	}
	for _, name := range []string{"i", "image-endpoint"} {
		global.String(name, "", "taken for crictl's sake; the runtime's socket serves images as well")
	}
	timeout := global.Duration("timeout", 5*time.Minute, "for the whole command")
	if err := global.Parse(line); err != nil {
		return err
	}
	if global.NArg() == 0 {
		return fmt.Errorf("no command; known are %s", known())
	}
	name := global.Arg(0)
	wanted, ok := commands[name]
	if !ok {
		return fmt.Errorf("no command %q; known are %s", name, known())
	}
	c := &call{}
	local := flag.NewFlagSet(name, flag.ContinueOnError)
	for _, quiet := range []string{"q", "quiet"} {
		local.BoolVar(&c.quiet, quiet, false, "ids only")
	}
	for _, all := range []string{"a", "all"} {
		local.BoolVar(&c.all, all, false, "stopped ones too")
	}
	local.StringVar(&c.name, "name", "", "only containers with this in their name")
	if err := local.Parse(global.Args()[1:]); err != nil {
		return err
	}
	if c.args = local.Args(); len(c.args) < wanted.needs {
		return fmt.Errorf("%s needs %d argument(s)", name, wanted.needs)
	}
	if strings.HasPrefix(socket, "/") {
		socket = "unix://" + socket
	}
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	connection, err := grpc.DialContext(ctx, socket, grpc.WithInsecure(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		return err
	}
	defer connection.Close()
	c.context, c.runtime, c.images = ctx, cri.NewRuntimeServiceClient(connection), cri.NewImageServiceClient(connection)
	return wanted.run(c)
}

func known() string {
	var names []string
	for name := range commands {
		names = append(names, name)
	}
	sort.Strings(names)
	return strings.Join(names, ", ")
}

// each does something with every argument and stops at the first failure.
func (c *call) each(do func(string) error) error {
	for _, arg := range c.args {
		if err := do(arg); err != nil {
			return fmt.Errorf("%s: %w", arg, err)
		}
	}
	return nil
}

func show(v interface{}) error {
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// short cuts an id as crictl's tables do.
func short(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	if len(id) > 13 {
		return id[:13]
	}
	return id
}

func version(c *call) error {
	r, err := c.runtime.Version(c.context, &cri.VersionRequest{})
	if err == nil {
		fmt.Printf("Version:  %s\nRuntimeName:  %s\nRuntimeVersion:  %s\nRuntimeApiVersion:  %s\n",
			r.Version, r.RuntimeName, r.RuntimeVersion, r.RuntimeApiVersion)
	}
	return err
}

func info(c *call) error {
	r, err := c.runtime.Status(c.context, &cri.StatusRequest{Verbose: true})
	if err != nil {
		return err
	}
	return show(r)
}

func pull(c *call) error {
	return c.each(func(image string) error {
		r, err := c.images.PullImage(c.context, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: image}})
		if err == nil {
			fmt.Println("Image is up to date for", r.ImageRef)
		}
		return err
	})
}

func inspectImages(c *call) error {
	return c.each(func(image string) error {
		r, err := c.images.ImageStatus(c.context, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: image}})
		if err != nil {
			return err
		}
		if r.Image == nil {
			return fmt.Errorf("no such image present")
		}
		return show(r)
	})
}

func listImages(c *call) error {
	r, err := c.images.ListImages(c.context, &cri.ListImagesRequest{})
	if err != nil {
		return err
	}
	for _, image := range r.Images {
		if c.quiet {
			fmt.Println(image.Id)
		} else {
			fmt.Printf("%-60s %-14s %8d KiB\n", strings.Join(image.RepoTags, ","), short(image.Id), image.Size_>>10)
		}
	}
	return nil
}

func removeImages(c *call) error {
	return c.each(func(image string) error {
		_, err := c.images.RemoveImage(c.context, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: image}})
		return err
	})
}

func listPods(c *call) error {
	r, err := c.runtime.ListPodSandbox(c.context, &cri.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	for _, pod := range r.Items {
		if c.quiet {
			fmt.Println(pod.Id)
		} else {
			state := strings.TrimPrefix(pod.State.String(), "SANDBOX_")
			fmt.Printf("%-14s %-9s %s/%s\n", short(pod.Id), state, pod.Metadata.Namespace, pod.Metadata.Name)
		}
	}
	return nil
}

func stopPods(c *call) error {
	return c.each(func(id string) error {
		_, err := c.runtime.StopPodSandbox(c.context, &cri.StopPodSandboxRequest{PodSandboxId: id})
		return err
	})
}

func removePods(c *call) error {
	return c.each(func(id string) error {
		_, err := c.runtime.RemovePodSandbox(c.context, &cri.RemovePodSandboxRequest{PodSandboxId: id})
		return err
	})
}

func listContainers(c *call) error {
	r, err := c.runtime.ListContainers(c.context, &cri.ListContainersRequest{})
	if err != nil {
		return err
	}
	for _, container := range r.Containers {
		running := container.State == cri.ContainerState_CONTAINER_RUNNING
		if !running && !c.all || !strings.Contains(container.Metadata.Name, c.name) {
			continue
		}
		if c.quiet {
			fmt.Println(container.Id)
			continue
		}
		state := strings.TrimPrefix(container.State.String(), "CONTAINER_")
		fmt.Printf("%-14s %-9s %-26s attempt %d pod %s/%s\n", short(container.Id), state, container.Metadata.Name, container.Metadata.Attempt,
			container.Labels["io.kubernetes.pod.namespace"], container.Labels["io.kubernetes.pod.name"])
	}
	return nil
}

// find gives the id of the one container whose id begins as given.
func (c *call) find(begin string) (string, error) {
	r, err := c.runtime.ListContainers(c.context, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{Id: begin}})
	if err != nil {
		return "", err
	}
	if len(r.Containers) != 1 {
		return "", fmt.Errorf("%d containers have an id that begins with %q", len(r.Containers), begin)
	}
	return r.Containers[0].Id, nil
}

func logs(c *call) error {
	id, err := c.find(c.args[0])
	if err != nil {
		return err
	}
	r, err := c.runtime.ContainerStatus(c.context, &cri.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return err
	}
	file, err := os.Open(r.Status.LogPath)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(os.Stdout, file)
	return err
}

func execute(c *call) error {
	id, err := c.find(c.args[0])
	if err != nil {
		return err
	}
	r, err := c.runtime.ExecSync(c.context, &cri.ExecSyncRequest{ContainerId: id, Cmd: c.args[1:]})
	if err != nil {
		return err
	}
	os.Stdout.Write(r.Stdout)
	os.Stderr.Write(r.Stderr)
	if r.ExitCode != 0 {
		return fmt.Errorf("exit code %d", r.ExitCode)
	}
	return nil
}
