package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// Save writes an image that is here to a file, as `docker save` does. It is not here: ErrNotFound.
func (e *Engine) Save(ctx context.Context, image, file string) error {
	fail := func(err error) error { return fmt.Errorf("save the image %s: %w", image, kind(err)) }
	r, err := e.api.ImageSave(ctx, []string{image})
	if err != nil {
		return fail(err)
	}
	defer r.Close()
	f, err := os.Create(file)
	if err != nil {
		return fail(err)
	}
	_, err = io.Copy(f, r)
	if err = errors.Join(err, f.Close()); err != nil {
		return fail(err)
	}
	return nil
}
