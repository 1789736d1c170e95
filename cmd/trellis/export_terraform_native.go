package main

import (
	"cmp"
	"maps"
	"slices"
	"strconv"

	"trellis/compose"
	"trellis/engine"
	"trellis/engine/kubernetes"
	"trellis/terraform"
)

// givenByTerraform stands where a value is that Terraform gives.
const givenByTerraform = "given by Terraform"

// nativeRoot returns a project in an environment as the objects of a cluster.
func (p *program) nativeRoot(name, environment string, l loaded) (terraform.Root, error) {
	root := terraform.Root{
		Name: name, Project: l.project.Name, Cluster: p.placeOf(l.project.Trellis.Environments[environment]), Images: map[string]terraform.Variable{},
		Replicas: map[string]terraform.Variable{}, Secrets: map[string]terraform.Secret{}, Hidden: map[string]string{}, Objects: []terraform.Object{},
	}
	root.Cluster.Namespace = cmp.Or(root.Cluster.Namespace, kubernetes.NamespaceOf(l.project.Name))
	if err := containerised(l.project); err != nil {
		return root, err
	}
	asWritten := l
	l.project = withoutValues(&root, l.project)
	opt, err := p.clusterOptions(l.project, newKubernetesFlags())
	if err != nil {
		return root, err
	}
	opt.Gates = kubernetes.Gates{} // Terraform keeps the order
	noted := opt
	noted.Contents = maps.Clone(opt.Contents)
	for name := range root.Secrets {
		noted.Contents["secrets/"+name] = []byte(givenByTerraform)
	}
	p.warn(inCluster(asWritten, noted))
	objects, err := kubernetes.Render(l.project, nil, opt)
	if err != nil {
		return root, err
	}
	taken, names, services := map[string]bool{}, kubernetes.Names(l.project), map[string]string{}
	for service, name := range names {
		services[name] = service
	}
	workloads := map[string]string{} // references by service
	made := map[string]string{}      // references of what pods refer to, by name
	for _, o := range objects {
		manifest, err := kubernetes.Plain(o)
		if err != nil {
			return root, err
		}
		service, kind := services[kubernetes.InCluster(o)], o.GetObjectKind().GroupVersionKind().Kind
		address := terraform.Address(kind, o.GetName(), taken)
		if kind == "Secret" {
			s := terraform.EnvSecret{Address: address, Object: o.GetName(), Keys: map[string]string{}}
			data, _ := manifest["data"].(map[string]any)
			for key := range data {
				s.Keys[key] = service + "." + key
			}
			root.EnvSecrets, made[o.GetName()] = append(root.EnvSecrets, s), s.Reference()
			continue
		}
		one := terraform.Object{Address: address, Service: service, Manifest: manifest}
		at(manifest, []string{"metadata"}, func(m map[string]any) { m["namespace"] = terraform.Namespace })
		switch kind {
		case "Deployment", "StatefulSet", "DaemonSet":
			one.Wait = terraform.WaitRollout
		case "Job":
			one.Wait = terraform.WaitComplete
		case "ConfigMap", "PersistentVolumeClaim", "ServiceAccount":
			made[o.GetName()] = one.Reference()
		}
		if one.Wait != "" {
			workloads[service] = one.Reference()
			one.After = after(l.project.Services[service], workloads, made, manifest)
			adjustable(&root, service, manifest)
		}
		root.Objects = append(root.Objects, one)
	}
	return root, nil
}

// placeOf is the place in a cluster that the flags or an environment say.
func (p *program) placeOf(there compose.EnvironmentRef) *terraform.Cluster {
	return &terraform.Cluster{Context: cmp.Or(p.flags.context, there.Context), Namespace: cmp.Or(p.flags.namespace, there.Namespace)}
}

// withoutValues returns a project without the values that nobody may see: its secrets are those of the namespace, and root
// says which values Terraform has to give.
func withoutValues(root *terraform.Root, project compose.Project) compose.Project {
	project.Services, project.Secrets = maps.Clone(project.Services), maps.Clone(project.Secrets)
	for _, service := range project.ServiceNames() {
		svc := project.Services[service]
		svc.Environment = maps.Clone(svc.Environment)
		for key, value := range svc.Environment {
			if value != "" && engine.LooksSecret(key, value) {
				svc.Environment[key], root.Hidden[service+"."+key] = givenByTerraform, key
			}
		}
		svc.PreStart = slices.Clone(svc.PreStart)
		for i, step := range svc.PreStart {
			step.Environment = maps.Clone(step.Environment)
			for key, value := range step.Environment {
				if value != "" && engine.LooksSecret(key, value) {
					step.Environment[key], root.Hidden[service+"."+kubernetes.StepVariable(i, key)] = givenByTerraform, key
				}
			}
			svc.PreStart[i] = step
		}
		project.Services[service] = svc
		for _, use := range svc.Secrets {
			if secret := project.Secrets[use.Source]; !secret.External {
				object, key := kubernetes.SecretObject(project, use.Source)
				root.Secrets[use.Source] = terraform.Secret{Object: object, Key: key}
			}
		}
	}
	for name, s := range root.Secrets {
		project.Secrets[name] = compose.FileValue{External: true, Name: s.Object}
	}
	return project
}

// after returns the references of what has to be there before a workload: the services that it depends on, and the objects
// that its pods refer to.
func after(svc compose.Service, workloads, made map[string]string, manifest map[string]any) []string {
	var all []string
	for name := range svc.DependsOn {
		if ref := workloads[name]; ref != "" {
			all = append(all, ref)
		}
	}
	for _, text := range textsIn(manifest["spec"]) {
		if ref := made[text]; ref != "" {
			all = append(all, ref)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// textsIn returns every text in a value.
func textsIn(v any) []string {
	var all []string
	switch v := v.(type) {
	case string:
		all = append(all, v)
	case map[string]any:
		for _, e := range v {
			all = append(all, textsIn(e)...)
		}
	case []any:
		for _, e := range v {
			all = append(all, textsIn(e)...)
		}
	}
	return all
}

// adjustable puts variables where a workload says what Terraform decides: its image, and its number of pods.
func adjustable(root *terraform.Root, service string, manifest map[string]any) {
	image := ""
	at(manifest, fieldsOf("spec.template.spec.containers.[]"), func(m map[string]any) {
		if text, ok := m["image"].(string); ok && image == "" {
			image = text
		}
	})
	for _, list := range []string{"containers", "initContainers"} {
		at(manifest, fieldsOf("spec.template.spec."+list+".[]"), func(m map[string]any) {
			if m["image"] == image {
				m["image"] = terraform.Lookup("images", service, image)
			}
		})
	}
	root.Images[service] = terraform.Variable{Default: image}
	at(manifest, []string{"spec"}, func(m map[string]any) {
		if n, ok := m["replicas"].(float64); ok {
			root.Replicas[service] = terraform.Variable{Default: strconv.Itoa(int(n))}
			m["replicas"] = terraform.Lookup("replicas", service, n)
		}
	})
}
