// Package netspace is what drivers do in the network namespaces of their instances: enter one, lead names to the mesh,
// see what listens. It makes no namespace and keeps none.
package netspace
