package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"trellis/compose"
	"trellis/engine"
	"trellis/engine/kubernetes"
	"trellis/terraform"
)

type exportTerraformFlags struct {
	force, standalone bool
	revision          int64
}

func (p *program) exportTerraformCommand() *cobra.Command {
	var f exportTerraformFlags
	cmd := &cobra.Command{
		Use:   "terraform DIR",
		Short: "Write the project as Terraform code: a root for each environment, over shared modules",
		Long: `Export terraform writes DIR/environments with a root for the file itself (production)
and one for each environment that it declares, and DIR/modules that they share: what
they run on, and the project through Trellis' own provider. Each root has its Compose
file beside it, resolved, with images and numbers of instances as variables, tests for
'terraform test', and a terraform.tfvars of yours that is written once.

--cloud none is a platform that is there: a cluster, in which a namespace and the
project's secrets are made, or with --on local this machine. No value of a secret, and
none of a variable that looks like one, is in what is written: they are variables of
Terraform's. The same project gives the same bytes; a file that you have changed, or
that is yours, is never written over unless --force says so.

With --standalone nothing of Trellis runs any more: instead of the project there are the
cluster's own objects, each as a resource of the provider 'kubernetes', in a file for
each service, in the order of their dependencies, for Kubernetes 1.33 or later (1.30,
where no service has a stop_signal).

With --revision it is that revision of the running project instead of the files, as the
one root of the environment.`,
		Example: `  trellis export terraform infra && cd infra/environments/production && terraform init
  trellis export terraform infra --on local
  trellis export terraform infra --standalone
  trellis export terraform infra --revision 7`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error { return p.exportTerraform(cmd.Context(), args[0], f) },
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	cmd.Flags().Var(&choice{value: terraform.CloudNone, allowed: []string{terraform.CloudNone}}, "cloud", "the `CLOUD` that the platform is made in: none, it is there")
	cmd.Flags().BoolVar(&f.standalone, "standalone", false, "as native objects of a cluster, without Trellis")
	cmd.Flags().Int64Var(&f.revision, "revision", 0, "the revision `N` of what runs, instead of the files")
	cmd.Flags().BoolVar(&f.force, "force", false, "also over files that are not as an export has written them")
	return p.project(cmd)
}

func (p *program) exportTerraform(ctx context.Context, dir string, f exportTerraformFlags) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if f.standalone {
		if p.flags.on == onLocal {
			return usageError{"--standalone writes objects of a cluster: leave out --on local", "trellis export terraform"}
		}
		p.flags.on = onKubernetes
	}
	base, roots, err := p.terraformRoots(ctx, dir, f)
	if err != nil {
		return err
	}
	const by = "trellis export terraform"
	files := terraform.Files(base, roots)
	for i, file := range files {
		switch {
		case file.Own:
		case strings.HasSuffix(file.Path, ".md"):
			files[i].Text = madeByInMarkdown(by, file.Text)
		default:
			files[i].Text = madeBy(by, file.Text)
		}
		if !file.Own { // nothing is written before it is known that everything may be
			if _, err := mayWrite(filepath.Join(dir, file.Path), files[i].Text, f.force); err != nil {
				return err
			}
		}
	}
	for _, file := range files {
		path := filepath.Join(dir, file.Path)
		if file.Own && exists(path) {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("export: %w", err)
		}
		if err := writeMade(path, file.Text, f.force); err != nil {
			return err
		}
	}
	p.progressf("wrote %s: %s of %s", shortPath(dir), plural(len(roots), "root"), base)
	if f.standalone {
		p.sayWithoutTrellis("the apply says so")
	}
	return nil
}

// terraformRoots returns the roots of the project, and its name without environment.
func (p *program) terraformRoots(ctx context.Context, dir string, f exportTerraformFlags) (base string, roots []terraform.Root, err error) {
	add := func(name, environment string, l loaded) error {
		var root terraform.Root
		if f.standalone {
			root, err = p.nativeRoot(name, environment, l)
		} else {
			root, err = p.terraformRoot(name, environment, l.project, filepath.Join(dir, "environments", name))
		}
		roots = append(roots, root)
		return err
	}
	if f.revision > 0 {
		project, err := p.revision(ctx, strconv.FormatInt(f.revision, 10))
		if err != nil {
			return "", nil, err
		}
		err = add(cmp.Or(p.flags.environment, "production"), p.flags.environment, loaded{project: project})
		return project.Name, roots, err
	}
	if p.flags.context+p.flags.namespace != "" {
		p.flags.on = onKubernetes // where it runs unless something else is said
	}
	l, err := p.loadAs(ctx, "")
	p.warn(l.warnings)
	if err != nil {
		return "", nil, err
	}
	environments := slices.Sorted(maps.Keys(l.project.Trellis.Environments))
	name := "production"
	if slices.Contains(environments, name) {
		name = "base"
	}
	if err := add(name, "", l); err != nil {
		return "", nil, err
	}
	for _, environment := range environments {
		own, err := p.loadAs(ctx, environment)
		if err != nil {
			return "", nil, err
		}
		if err := add(environment, environment, own); err != nil {
			return "", nil, err
		}
	}
	return l.project.Name, roots, nil
}

// terraformRoot returns what Terraform has to know of a project in an environment, "" for none, whose Compose file will
// lie in dir.
func (p *program) terraformRoot(name, environment string, project compose.Project, dir string) (terraform.Root, error) {
	there := project.Trellis.Environments[environment]
	root := terraform.Root{
		Name: name, Project: project.Name, Images: map[string]terraform.Variable{}, Replicas: map[string]terraform.Variable{},
		Secrets: map[string]terraform.Secret{}, Hidden: map[string]string{},
	}
	if on := cmp.Or(p.flags.on, there.On, onKubernetes); on == onKubernetes {
		root.Cluster = p.placeOf(there)
		root.Cluster.Namespace = cmp.Or(root.Cluster.Namespace, kubernetes.NamespaceOf(project.Name))
	} else if broken := p.borrowed(project); len(broken) > 0 {
		return root, compose.Diagnostics(broken)
	}
	var err error
	if root.Directory, err = filepath.Rel(dir, project.WorkingDir); err != nil {
		return root, fmt.Errorf("export: %w", err)
	}
	file, err := composeFile(project)
	if err != nil {
		return root, err
	}
	relocate(file, project, project.WorkingDir)
	for _, section := range []string{"secrets.*", "configs.*"} {
		at(file, fieldsOf(section), func(m map[string]any) { delete(m, "ref") })
	}
	at(file, []string{"x-trellis"}, func(m map[string]any) {
		if delete(m, "environments"); len(m) == 0 {
			delete(file, "x-trellis")
		}
	})
	at(file, fieldsOf("services.*.x-trellis"), func(m map[string]any) { delete(m, "image_id") })
	at(file, fieldsOf("services.*.x-trellis.process"), func(m map[string]any) { delete(m, "artifact") })
	names := variableNames{}
	for _, service := range project.ServiceNames() {
		at(file, []string{"services", service}, func(m map[string]any) { parametrise(&root, names, service, m) })
	}
	if root.Cluster != nil {
		givenSecrets(&root, project, file)
	}
	root.Compose, err = yamlOf(file)
	return root, err
}

// parametrise puts variables where a service says what Terraform decides, and where it says what nobody may see.
func parametrise(root *terraform.Root, names variableNames, service string, m map[string]any) {
	own, _ := m["x-trellis"].(map[string]any)
	if image, ok := m["image"].(string); ok && m["build"] == nil && own["process"] == nil {
		v := terraform.Variable{Name: names.of("TRELLIS_IMAGE", service), Default: image}
		root.Images[service], m["image"] = v, "${"+v.Name+":-"+image+"}"
	}
	deploy, _ := m["deploy"].(map[string]any)
	scaled, _ := deploy["x-trellis"].(map[string]any)
	if mode, _ := deploy["mode"].(string); (mode == "" || mode == "replicated") && scaled["autoscale"] == nil {
		n, ok := deploy["replicas"].(int64)
		if !ok {
			n = 1
		}
		if deploy == nil {
			deploy = map[string]any{}
			m["deploy"] = deploy
		}
		v := terraform.Variable{Name: names.of("TRELLIS_REPLICAS", service), Default: strconv.FormatInt(n, 10)}
		root.Replicas[service], deploy["replicas"] = v, "${"+v.Name+":-"+v.Default+"}"
	}
	hide := func(m map[string]any, what func(key string) string) {
		environment, _ := m["environment"].(map[string]any)
		for _, key := range slices.Sorted(maps.Keys(environment)) {
			if value, ok := environment[key].(string); ok && value != "" && engine.LooksSecret(key, value) {
				name := names.of("TRELLIS_SECRET", service+"_"+what(key))
				root.Hidden[service+"."+what(key)], environment[key] = name, "${"+name+":?}"
			}
		}
	}
	hide(m, func(key string) string { return key })
	steps, _ := m["pre_start"].([]any)
	for i, step := range steps {
		if step, ok := step.(map[string]any); ok {
			hide(step, func(key string) string { return kubernetes.StepVariable(i, key) })
		}
	}
}

// variableNames gives out names of variables, each once.
type variableNames map[string]bool

func (n variableNames) of(prefix, what string) string {
	plain := prefix + "_" + strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' {
			return c
		}
		return '_'
	}, strings.ToUpper(what))
	name := plain
	for i := 2; n[name]; i++ {
		name = plain + "_" + strconv.Itoa(i)
	}
	n[name] = true
	return name
}

// givenSecrets makes the secrets that services use those of the cluster's namespace, which Terraform gives them.
func givenSecrets(root *terraform.Root, project compose.Project, file map[string]any) {
	used := map[string]bool{}
	for _, svc := range project.Services {
		for _, use := range svc.Secrets {
			used[use.Source] = true
		}
	}
	for name := range used {
		if project.Secrets[name].External {
			continue // somebody else's to give
		}
		at(file, []string{"secrets", name}, func(m map[string]any) {
			var s terraform.Secret
			s.Object, s.Key = kubernetes.SecretObject(project, name)
			root.Secrets[name] = s
			clear(m)
			m["external"], m["name"] = true, s.Object
		})
	}
}
