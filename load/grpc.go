package load

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	reflection "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"trellis/errdefs"
)

// GRPCCall is a unary call.
type GRPCCall struct {
	Method  string // package.Service/Method
	Message []byte // encoded
}

// path is the method's path on the target.
func (c GRPCCall) path() (string, error) {
	service, method, ok := strings.Cut(strings.TrimPrefix(c.Method, "/"), "/")
	if !ok || !protoreflect.FullName(service).IsValid() || !protoreflect.Name(method).IsValid() {
		return "", fmt.Errorf("gRPC method %q: want package.Service/Method: %w", c.Method, errdefs.ErrInvalid)
	}
	return "/" + service + "/" + method, nil
}

// request is the call as an HTTP/2 request.
func (c GRPCCall) request() (Request, error) {
	path, err := c.path()
	if err != nil {
		return Request{}, err
	}
	frame := make([]byte, 5, 5+len(c.Message)) // not compressed, length, message
	binary.BigEndian.PutUint32(frame[1:], uint32(len(c.Message)))
	return Request{
		Method: http.MethodPost, Path: path, Body: append(frame, c.Message...),
		Header: http.Header{"Content-Type": {"application/grpc+proto"}, "Te": {"trailers"}},
	}, nil
}

// grpcKind judges a whole answer with HTTP status 200: its status is in the trailers, or in the header of an answer
// without a message.
func grpcKind(response *http.Response, a answer) Kind {
	status := response.Trailer.Get("Grpc-Status")
	if status == "" {
		status = response.Header.Get("Grpc-Status")
	}
	code, err := strconv.ParseUint(status, 10, 32)
	switch {
	case status == "":
		return Truncated
	case err != nil:
		return BadResponse
	case code == uint64(codes.OK):
		return ""
	case a.queue:
		return Queue503
	case a.marked && codes.Code(code) == codes.ResourceExhausted:
		return Limited
	case a.marked:
		return Proxy5xx
	}
	return Kind("grpc-" + kebab(codes.Code(code).String()))
}

// kebab makes not-found of NotFound.
func kebab(s string) string {
	var b strings.Builder
	for i, r := range s {
		if r >= 'A' && r <= 'Z' {
			if i > 0 {
				b.WriteByte('-')
			}
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// EncodeGRPC encodes a JSON message for a method of the target, whose types it asks the server for by reflection. It
// blocks for at most ten seconds. An error of kind errdefs.ErrInvalid is about method or message; without reflection at
// the server it is of kind errdefs.ErrUnsupported.
func EncodeGRPC(ctx context.Context, target, method string, message []byte, insecureTLS bool) ([]byte, error) {
	fail := func(err error) ([]byte, error) { return nil, fmt.Errorf("encode the message of %s: %w", method, err) }
	path, err := GRPCCall{Method: method}.path()
	if err != nil {
		return nil, err
	}
	service, name, _ := strings.Cut(path[1:], "/")
	u, err := url.Parse(target)
	if err != nil || u.Host == "" {
		return fail(fmt.Errorf("%q is not a URL: %w", target, errdefs.ErrInvalid))
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	files, err := reflectFiles(ctx, u, service, insecureTLS)
	if err != nil {
		return fail(err)
	}
	found, err := files.FindDescriptorByName(protoreflect.FullName(service))
	described, ok := found.(protoreflect.ServiceDescriptor)
	if err != nil || !ok {
		return fail(fmt.Errorf("the server has no service %s: %w", service, errdefs.ErrInvalid))
	}
	m := described.Methods().ByName(protoreflect.Name(name))
	if m == nil {
		return fail(fmt.Errorf("%s has no method %s: it has %s: %w", service, name, methodNames(described), errdefs.ErrInvalid))
	}
	if m.IsStreamingClient() || m.IsStreamingServer() {
		return fail(fmt.Errorf("it is a stream, and only unary methods can be called: %w", errdefs.ErrUnsupported))
	}
	typed := dynamicpb.NewMessage(m.Input())
	if err := (protojson.UnmarshalOptions{Resolver: dynamicpb.NewTypes(files)}).Unmarshal(message, typed); err != nil {
		return fail(fmt.Errorf("%v: %w", err, errdefs.ErrInvalid))
	}
	return proto.Marshal(typed)
}

func methodNames(s protoreflect.ServiceDescriptor) string {
	var names []string
	for i := range s.Methods().Len() {
		names = append(names, string(s.Methods().Get(i).Name()))
	}
	return strings.Join(names, ", ")
}

// reflectFiles asks a server for the file that describes a service and for all that it imports.
func reflectFiles(ctx context.Context, target *url.URL, service string, insecureTLS bool) (*protoregistry.Files, error) {
	transport := insecure.NewCredentials()
	if target.Scheme == "https" {
		transport = credentials.NewTLS(&tls.Config{InsecureSkipVerify: insecureTLS})
	}
	conn, err := grpc.NewClient("passthrough:///"+hostPort(target), grpc.WithTransportCredentials(transport), grpc.WithAuthority(target.Host))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stream, err := reflection.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		return nil, fmt.Errorf("ask the server for its types: %v: %w", err, errdefs.ErrUnavailable)
	}
	set, known := &descriptorpb.FileDescriptorSet{}, map[string]bool{}
	ask := func(q *reflection.ServerReflectionRequest) error { return reflectOne(stream, q, set, known) }
	if err := ask(&reflection.ServerReflectionRequest{MessageRequest: &reflection.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: service}}); err != nil {
		return nil, err
	}
	for i := 0; i < len(set.File); i++ { // grows meanwhile
		for _, name := range set.File[i].Dependency {
			if known[name] {
				continue
			}
			if err := ask(&reflection.ServerReflectionRequest{MessageRequest: &reflection.ServerReflectionRequest_FileByFilename{FileByFilename: name}}); err != nil {
				return nil, err
			}
		}
	}
	return protodesc.NewFiles(set)
}

// maxDescriptors bounds the files of one service.
const maxDescriptors = 1000

// reflectOne asks for files and adds those that are not known.
func reflectOne(stream reflection.ServerReflection_ServerReflectionInfoClient, q *reflection.ServerReflectionRequest, set *descriptorpb.FileDescriptorSet, known map[string]bool) error {
	_ = stream.Send(q) // the error of Recv says more
	answer, err := stream.Recv()
	if err != nil {
		if strings.Contains(err.Error(), codes.Unimplemented.String()) {
			return fmt.Errorf("the server has no reflection: send the encoded message instead: %w", errdefs.ErrUnsupported)
		}
		return fmt.Errorf("ask the server for its types: %v: %w", err, errdefs.ErrUnavailable)
	}
	if refused := answer.GetErrorResponse(); refused != nil {
		return fmt.Errorf("the server says: %s: %w", refused.ErrorMessage, errdefs.ErrInvalid)
	}
	for _, b := range answer.GetFileDescriptorResponse().GetFileDescriptorProto() {
		file := &descriptorpb.FileDescriptorProto{}
		if err := proto.Unmarshal(b, file); err != nil {
			return fmt.Errorf("read the server's types: %w", err)
		}
		if !known[file.GetName()] && len(set.File) < maxDescriptors {
			known[file.GetName()] = true
			set.File = append(set.File, file)
		}
	}
	return nil
}
