package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apiversion "k8s.io/apimachinery/pkg/util/version"

	"trellis/compose"
	"trellis/engine/kubernetes"
	"trellis/errdefs"
	"trellis/server"
)

const (
	exportKubernetes = "trellis export kubernetes"
	baseFolder       = "base"
	kustomizationYML = "kustomization.yaml"
	secretsFile      = "secrets.yaml"
	waitImage        = "busybox:1.37"
	kubectlImage     = "alpine/kubectl:1.34.1"
)

// kubernetesFlags are those of export kubernetes.
type kubernetesFlags struct {
	force, standalone, withoutSecrets bool
	rbac, metricsAPI                  bool
	storageClass                      string
	gatewayClass, priorityClass       string
	waitImage, kubectlImage           string
	registry                          string // "": nothing is built
	pullSecrets                       []string
	publish                           *choice
	mesh, monitoring, autoscaler      *choice
}

// newKubernetesFlags are those that nobody has given.
func newKubernetesFlags() kubernetesFlags {
	return kubernetesFlags{
		publish: &choice{
			value:   kubernetes.PublishLoadBalancer,
			allowed: []string{kubernetes.PublishLoadBalancer, kubernetes.PublishNodePort, kubernetes.PublishNone},
		},
		mesh:       &choice{allowed: []string{compose.Istio, compose.Linkerd}},
		monitoring: &choice{allowed: []string{compose.PrometheusOperator}},
		autoscaler: &choice{allowed: []string{compose.KEDA}},
	}
}

func (p *program) exportKubernetesCommand() *cobra.Command {
	f := newKubernetesFlags()
	cmd := &cobra.Command{
		Use:   "kubernetes [DIR]",
		Short: "Write the project as Kubernetes objects, with a kustomization",
		Long: `Export kubernetes writes native objects, which need no Trellis any more. DIR/base has
what is generated, and is written anew by the next export. DIR/kustomization.yaml is
written once and then yours: patches and images belong there. What a cluster does not
carry out as the file says is said, each with file, line and column. No cluster is asked:
the objects are for Kubernetes 1.33 or later (1.30, where no service has a stop_signal).

With --registry what has a build is built and pushed there, as 'trellis up' does it, and
the objects name it by its digest; without, they name what is to be pushed.

DIR/base/secrets.yaml holds the contents of secrets in clear.

With --rbac nothing is written: it prints the Role that 'trellis up --on kubernetes' and
the other commands need for this project, and no more.

With --metrics-api nothing is written either: it prints what lets the cluster scale
services by requests, for every project in it: a pod that tells Kubernetes what the
data planes measure. An administrator installs it once. Its image is TRELLIS_IMAGE.`,
		Example: `  trellis export kubernetes out && kubectl create namespace shop && kubectl apply -k out
  trellis export kubernetes out --environment staging --gateway-class nginx
  trellis export kubernetes --rbac | kubectl apply -f -
  trellis export kubernetes --metrics-api | kubectl apply -f -`,
		Args: arguments(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case f.rbac && f.metricsAPI:
				return usageError{"--rbac and --metrics-api print different things: leave out one of them", cmd.CommandPath()}
			case f.rbac && len(args) > 0:
				return usageError{"--rbac prints a Role and writes nothing: leave out one of it and DIR", cmd.CommandPath()}
			case f.metricsAPI && len(args) > 0:
				return usageError{"--metrics-api prints objects and writes nothing: leave out one of it and DIR", cmd.CommandPath()}
			case f.metricsAPI:
				return p.printMetricsAPI()
			case f.rbac:
				return p.printRole(cmd.Context(), f)
			case len(args) == 0:
				return usageError{"it takes the DIR to write to", cmd.CommandPath()}
			}
			return p.exportKubernetes(cmd.Context(), args[0], f)
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.force, "force", false, "also over files that are not as an export has written them")
	flags.BoolVar(&f.standalone, "standalone", false, "also say which promises of Trellis a cluster does not keep by itself")
	flags.BoolVar(&f.rbac, "rbac", false, "print the least Role with which Trellis itself deploys the project")
	flags.BoolVar(&f.metricsAPI, "metrics-api", false, "print what lets the cluster scale services by requests")
	flags.BoolVar(&f.withoutSecrets, "without-secrets", false, "leave the contents of secrets out: the namespace has to have them")
	flags.StringVar(&f.registry, "registry", "", "build, and push images to `HOST[:PORT][/PREFIX]`")
	flags.Var(f.publish, "publish", "how published ports are opened: load-balancer, node-port or none")
	flags.StringVar(&f.gatewayClass, "gateway-class", "", "the `CLASS` of the Gateway that routes are mounted on; the environment's")
	flags.Var(f.mesh, "mesh", "the mesh that pods are put into: istio or linkerd; the environment's")
	flags.Var(f.monitoring, "monitoring", "what of the cluster scrapes metrics: prometheus-operator; the environment's")
	flags.Var(f.autoscaler, "autoscaler", "what of the cluster scales services: keda; the environment's")
	flags.StringVar(&f.storageClass, "storage-class", "", "the `CLASS` of volumes; the cluster's default")
	flags.StringVar(&f.priorityClass, "priority-class", "", "the `CLASS` of pods; the cluster's default")
	flags.StringSliceVar(&f.pullSecrets, "pull-secret", nil, "a `SECRET` of the namespace that a registry asks for (repeatable)")
	flags.StringVar(&f.waitImage, "wait-image", waitImage, "the `IMAGE` of containers that wait for another service: a shell and nc")
	flags.StringVar(&f.kubectlImage, "kubectl-image", kubectlImage, "the `IMAGE` of containers that wait for a Job: kubectl")
	return p.project(cmd)
}

// sayWithoutTrellis tells which sentences no object of a cluster keeps. failed is what becomes of a rollout that fails.
func (p *program) sayWithoutTrellis(failed string) {
	for _, lost := range []string{
		"a request that meets a crash is not repeated: callers see the error",
		"a rollout that fails stops where it is, with the old pods in service: " + failed,
		"a rollback is an export of the older file, applied again",
		"services are scaled by CPU only",
	} {
		p.progressf("without Trellis: %s", lost)
	}
}

func (p *program) exportKubernetes(ctx context.Context, dir string, f kubernetesFlags) error {
	l, err := p.readFor(ctx, onKubernetes)
	if err != nil {
		return err
	}
	opt, err := p.clusterOptions(l.project, f)
	if err != nil {
		return err
	}
	if f.registry != "" {
		if l.project, err = p.pushed(ctx, l, f.registry); err != nil {
			return err
		}
	}
	p.warn(inCluster(l, opt))
	if err := containerised(l.project); err != nil {
		return err
	}
	objects, err := kubernetes.Render(l.project, nil, opt)
	if err != nil {
		return err
	}
	files, secrets, err := exportedFiles(objects)
	if err != nil {
		return err
	}
	if err := writeBase(filepath.Join(dir, baseFolder), files, f.force); err != nil {
		return err
	}
	if err := writeOverlay(dir, l.project, opt); err != nil {
		return err
	}
	p.progressf("wrote %s: %s, %s", shortPath(dir), plural(len(l.project.Services), "service"), plural(len(objects), "object"))
	if secrets > 0 {
		p.progressf("%s holds %s in clear: keep it out of the repository", shortPath(filepath.Join(dir, baseFolder, secretsFile)), plural(secrets, "secret"))
	}
	if f.standalone {
		p.sayWithoutTrellis("kubectl rollout undo takes it back")
	}
	return nil
}

// printRole prints the rights that deploying the project takes.
func (p *program) printRole(ctx context.Context, f kubernetesFlags) error {
	l, err := p.readFor(ctx, onKubernetes)
	if err != nil {
		return err
	}
	opt, err := p.clusterOptions(l.project, f)
	if broken := (compose.Diagnostics{}); err != nil && !errors.As(err, &broken) { // which contents are here does not matter
		return err
	}
	opt.Standalone, opt.Image = false, p.planeImage()
	role, err := kubernetes.Role(l.project, opt)
	if err != nil {
		return err
	}
	text, err := kubernetes.YAML(role)
	if err != nil {
		return err
	}
	if _, err := p.stdout.Write(text); err != nil {
		return err
	}
	p.progressf("give it with: kubectl create rolebinding %s --role=%[1]s --namespace=%s --user=NAME", role.Name, role.Namespace)
	return nil
}

// printMetricsAPI prints what serves the external metrics of every project in a cluster.
func (p *program) printMetricsAPI() error {
	image := p.planeImage()
	if image == "" {
		return withHint(plain{fmt.Errorf("the metrics API has no image: %w", errdefs.ErrInvalid)}, "name one of Trellis that the cluster pulls, in "+kubernetes.ImageEnv)
	}
	for _, o := range kubernetes.MetricsAPI(cmp.Or(p.flags.namespace, kubernetes.MetricsNamespace), image) {
		text, err := kubernetes.YAML(o)
		if err != nil {
			return err
		}
		if _, err := p.stdout.Write(append([]byte("---\n"), text...)); err != nil {
			return err
		}
	}
	return nil
}

// clusterOptions are what a project is rendered with where no cluster is asked.
func (p *program) clusterOptions(project compose.Project, f kubernetesFlags) (kubernetes.Options, error) {
	folders, err := kubernetes.ReadFolders(project)
	if err != nil {
		return kubernetes.Options{}, fmt.Errorf("read what is mounted: %w", err)
	}
	contents, broken := compose.Contents(project, p.environ)
	if f.withoutSecrets {
		for name := range contents {
			if strings.HasPrefix(name, "secrets/") {
				delete(contents, name)
			}
		}
	}
	return kubernetes.Options{
		Namespace:  cmp.Or(p.flags.namespace, project.Trellis.Environments[project.Environment].Namespace, kubernetes.NamespaceOf(project.Name)),
		Standalone: true, Folders: folders, Contents: contents, Publish: f.publish.value, GatewayClass: f.gatewayClass,
		Mesh: f.mesh.value, Monitoring: f.monitoring.value, Autoscaler: f.autoscaler.value, StorageClass: f.storageClass, PriorityClass: f.priorityClass, PullSecrets: f.pullSecrets,
		Gates: kubernetes.Gates{Wait: f.waitImage, Ask: f.kubectlImage}, Version: apiversion.MustParseGeneric(kubernetes.ExportedFor),
	}, broken
}

// toCluster returns what goes along with a project that a cluster is to run, and everything that it does not carry out as
// the files say. built are the services whose images are made here, and trellis is the image of
// Trellis that is made here too, if any.
func (p *program) toCluster(l loaded, built []string, trellis string) (contents map[string][]byte, warnings []compose.Diagnostic, err error) {
	opt, err := p.clusterOptions(l.project, newKubernetesFlags())
	if err != nil {
		return nil, nil, err
	}
	opt.Revision, opt.Gates = 1, kubernetes.Gates{} // Trellis keeps the order itself
	opt.Standalone, opt.Image = false, cmp.Or(p.planeImage(), trellis)
	opt.Images = anyImages(built)
	contents = maps.Clone(opt.Contents)
	maps.Copy(contents, kubernetes.FolderContents(opt.Folders))
	return contents, inCluster(l, opt), nil
}

// anyImages are images for services that have yet to be made.
func anyImages(services []string) map[string]string {
	all := map[string]string{}
	for _, name := range services {
		all[name] = "made"
	}
	return all
}

// planeImage is the image of the data plane as far as this machine knows, "" for none.
func (p *program) planeImage() string { return server.Plane(p.getenv(kubernetes.ImageEnv)).Of("") }

// inCluster returns everything that a cluster does not carry out as the files say, in order of place.
func inCluster(l loaded, opt kubernetes.Options) []compose.Diagnostic {
	all := diagnose(l, compose.TargetKubernetes)
	for _, d := range kubernetes.Notes(l.project, opt) {
		d.File = shortPath(d.File)
		d.Message = strings.ReplaceAll(d.Message, l.project.WorkingDir+"/", "./")
		all = append(all, d)
	}
	slices.SortStableFunc(all, func(a, b compose.Diagnostic) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return all
}

// exportedFiles returns the text of each file below base, and how many Secrets there are.
func exportedFiles(objects []kubernetes.Object) (files map[string][]byte, secrets int, err error) {
	files = map[string][]byte{}
	var order []string
	for _, o := range objects {
		name := fileOf(o)
		if _, ok := o.(*corev1.Secret); ok {
			name, secrets = secretsFile, secrets+1
		}
		text, err := kubernetes.YAML(o)
		if err != nil {
			return nil, 0, err
		}
		if files[name] == nil {
			order = append(order, name)
		} else {
			files[name] = append(files[name], "---\n"...)
		}
		files[name] = append(files[name], text...)
	}
	var b bytes.Buffer
	b.WriteString("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n")
	slices.Sort(order)
	for _, name := range order {
		fmt.Fprintf(&b, "- %s\n", name)
	}
	files[kustomizationYML] = b.Bytes()
	return files, secrets, nil
}

// fileOf is the file that an object stands in: that of its service, or of its kind.
func fileOf(o kubernetes.Object) string {
	if service := kubernetes.InCluster(o); service != "" {
		return "services/" + service + ".yaml"
	}
	switch kind := o.GetObjectKind().GroupVersionKind().Kind; kind {
	case "PersistentVolumeClaim":
		return "volumes.yaml"
	case "ConfigMap":
		return "configs.yaml"
	case "PrometheusRule":
		return "monitoring.yaml"
	case "NetworkAuthentication":
		return "mesh.yaml"
	default:
		return "gateway.yaml"
	}
}

// writeBase writes the generated files, and removes those of an earlier export that nothing is in any more. Where one was
// changed by somebody, nothing is written.
func writeBase(base string, files map[string][]byte, force bool) error {
	var stale []string
	err := filepath.WalkDir(base, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == base {
			return fs.SkipAll
		}
		if err != nil || d.IsDir() || filepath.Ext(path) != ".yaml" {
			return err
		}
		rel, err := filepath.Rel(base, path)
		if err != nil {
			return err
		}
		now, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		text, wanted := files[filepath.ToSlash(rel)]
		switch {
		case !asMade(now) && !force && (!wanted || !bytes.Equal(now, madeBy(exportKubernetes, text))):
			return withHint(plain{fmt.Errorf("%s was not written by an export, or was changed since: %w", shortPath(path), errdefs.ErrConflict)},
				"patch it in kustomization.yaml, export to another folder, or repeat with --force to write over it")
		case !wanted:
			stale = append(stale, path)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	for name, text := range files {
		path := filepath.Join(base, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("export: %w", err)
		}
		if name == secretsFile && !exists(path) {
			if err := os.WriteFile(path, madeBy(exportKubernetes, nil), 0o600); err != nil { // replaced, with its mode
				return fmt.Errorf("export: %w", err)
			}
		}
		if err := writeMade(path, madeBy(exportKubernetes, text), force); err != nil {
			return err
		}
	}
	for _, path := range stale {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("export: %w", err)
		}
	}
	return nil
}

// writeOverlay writes the kustomization that is the user's, once.
func writeOverlay(dir string, project compose.Project, opt kubernetes.Options) error {
	path := filepath.Join(dir, kustomizationYML)
	if exists(path) {
		return nil
	}
	var b strings.Builder
	b.WriteString("# Yours: written once by '" + exportKubernetes + "', and never touched again.\n")
	b.WriteString("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n- " + baseFolder + "\n")
	images := kubernetes.BuiltImages(project, opt)
	if len(images) > 0 {
		b.WriteString("# Where the images that the project builds have been pushed to:\n# images:\n")
	}
	for _, image := range images {
		fmt.Fprintf(&b, "# - name: %s\n#   newName: registry.example.org/%s\n#   newTag: \"1\"\n", image, image)
	}
	if err := replaceFile(path, []byte(b.String())); err != nil {
		return fmt.Errorf("write %s: %w", shortPath(path), err)
	}
	return nil
}
