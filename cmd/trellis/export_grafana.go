package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"trellis/api"
	"trellis/errdefs"
)

func (p *program) exportGrafanaCommand() *cobra.Command {
	var force bool
	var source string
	cmd := &cobra.Command{
		Use:   "grafana DIR",
		Short: "Write dashboards of the project for Grafana, and how it finds them",
		Long: `Export grafana writes DIR/dashboards with a dashboard of the project, and
DIR/provisioning, from which Grafana takes it and the address of the project's
metrics, which speak Prometheus' API. That address is the one of the running
control plane; where it does not run, or Grafana is elsewhere, say it.`,
		Example: `  trellis export grafana out && grafana server --homepath … cfg:paths.provisioning=out/provisioning
  trellis export grafana out --prometheus http://prometheus:9090`,
		Args: arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.exportGrafana(cmd.Context(), args[0], source, force)
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	cmd.Flags().StringVar(&source, "prometheus", "", "the `URL` at which Grafana reaches the metrics")
	cmd.Flags().BoolVar(&force, "force", false, "also over files that are not as an export has written them")
	return p.project(cmd)
}

func (p *program) exportGrafana(ctx context.Context, dir, source string, force bool) error {
	l, err := p.read(ctx)
	if err != nil {
		return err
	}
	p.warn(l.warnings)
	if source == "" {
		if source, err = p.metricsAddress(ctx); err != nil {
			return err
		}
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	project := l.project.Name
	var board bytes.Buffer
	enc := json.NewEncoder(&board)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(dashboardOf(project, l.project.ServiceNames())); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	const by = "trellis export grafana"
	files := []struct {
		path string
		text []byte
	}{
		{filepath.Join("dashboards", project+".json"), sealed(by, board.Bytes())},
		{filepath.Join("provisioning", "datasources", project+".yaml"), madeBy(by, fmt.Appendf(nil, `apiVersion: 1
datasources:
  - name: %[1]s
    uid: %[2]s
    type: prometheus
    access: proxy
    url: %[3]q
    jsonData: {timeInterval: 5s, httpMethod: POST}
`, project, sourceUID(project), source))},
		{filepath.Join("provisioning", "dashboards", project+".yaml"), madeBy(by, fmt.Appendf(nil, `apiVersion: 1
providers:
  - name: %s
    folder: Trellis
    type: file
    options: {path: %q}
`, project, filepath.Join(dir, "dashboards")))},
	}
	for _, f := range files {
		path := filepath.Join(dir, f.path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("export: %w", err)
		}
		if err := writeMade(path, f.text, force); err != nil {
			return err
		}
		p.progressf("wrote %s", shortPath(path))
	}
	return nil
}

// metricsAddress returns where the running project serves Prometheus' API.
func (p *program) metricsAddress(ctx context.Context) (string, error) {
	address := ""
	err := p.withControl(ctx, func(control api.Control, _ location) error {
		st, err := control.Status(ctx)
		if err == nil && st.Prometheus != nil {
			address = *st.Prometheus
		}
		return err
	})
	if err == nil && address == "" {
		err = fmt.Errorf("the metrics have no address yet: %w", errdefs.ErrUnavailable)
	}
	if err != nil {
		return "", withHint(err, "start the project, or say where its metrics are: --prometheus URL")
	}
	return address, nil
}

// sealMark stands where the digest of a JSON file comes, which has no comments: in its description.
var sealMark = []byte("sha256:-")

// sealed puts into a generated JSON file the digest of what it is without it.
func sealed(command string, text []byte) []byte {
	text = bytes.Replace(text, []byte(madeHere), []byte("Made by '"+command+"': it is written anew by the next export, unless it was changed. "+string(sealMark)), 1)
	return bytes.Replace(text, sealMark, []byte(sumOf(text)), 1)
}

// asSealed says whether a JSON file is as an export has written it.
func asSealed(text []byte) bool {
	mark := sealMark[:len(sealMark)-1]
	i := bytes.Index(text, mark)
	const digits = 64
	if i < 0 || len(text) < i+len(mark)+digits {
		return false
	}
	sum := text[i : i+len(mark)+digits]
	return sumOf(bytes.Replace(text, sum, sealMark, 1)) == string(sum)
}
