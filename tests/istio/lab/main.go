// Command lab runs the real istiod (istio.io/istio/pilot/pkg/bootstrap) on one
// machine with an in-memory Kubernetes API, so that a sidecar can be driven by
// a genuine Istio control plane without a cluster.
//
//	lab -mesh mesh.yaml -istio DIR -kube DIR -grpc 127.0.0.1:15010 -tls 127.0.0.1:15012
//
// DIR of -istio holds Istio resources (VirtualService, DestinationRule, ...) and
// is reloaded when a file changes. DIR of -kube holds core objects (Service,
// Pod, EndpointSlice, Secret, ...) loaded at start; POST /apply and /delete on
// -admin change them while it runs (body: YAML).
//
// Workload certificates: any bearer token of the form NAMESPACE/SERVICEACCOUNT
// (or NAMESPACE/SERVICEACCOUNT/POD) is accepted by the in-memory TokenReview.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"time"
	"unsafe"

	authn "k8s.io/api/authentication/v1"
	authz "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	kerrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"istio.io/istio/pilot/pkg/bootstrap"
	"istio.io/istio/pkg/activenotifier"
	"istio.io/istio/pkg/cluster"
	"istio.io/istio/pkg/kube"
	"istio.io/istio/pkg/log"
)

func main() {
	mesh := flag.String("mesh", "", "mesh config file")
	istioDir := flag.String("istio", "", "directory of Istio resources, reloaded on change")
	kubeDir := flag.String("kube", "", "directory of core Kubernetes objects")
	grpc := flag.String("grpc", "127.0.0.1:15010", "plaintext xDS address")
	tls := flag.String("tls", "", "TLS xDS and CA address (empty: off)")
	httpAddr := flag.String("http", "127.0.0.1:15080", "istiod debug and readiness address")
	monitoring := flag.String("monitoring", "127.0.0.1:15014", "istiod metrics address")
	admin := flag.String("admin", "127.0.0.1:15081", "address for /apply and /delete of core objects")
	root := flag.String("root", "", "file that the mesh's root certificate is written to")
	ca := flag.String("ca", "", "file that keeps the mesh's certificate authority from one run to the next")
	verbose := flag.Bool("v", false, "debug log of every push")
	flag.Parse()

	opts := log.DefaultOptions()
	if !*verbose {
		for _, scope := range log.Scopes() {
			scope.SetOutputLevel(log.WarnLevel)
		}
	}
	check(log.Configure(opts))

	objects := []runtime.Object{}
	if *kubeDir != "" {
		files, err := filepath.Glob(filepath.Join(*kubeDir, "*.yaml"))
		check(err)
		for _, f := range files {
			b, err := os.ReadFile(f)
			check(err)
			parsed, err := parse(string(b))
			check(err)
			objects = append(objects, parsed...)
		}
	}
	if kept, err := os.ReadFile(*ca); *ca != "" && err == nil {
		secret := &corev1.Secret{}
		check(json.Unmarshal(kept, secret))
		objects = append(objects, secret)
	}
	objects = append(namespaces(objects), objects...)
	client := kube.NewFakeClientWithVersion("32", objects...)
	clientset := client.Kube().(*fake.Clientset)
	acceptTokens(clientset)

	args := bootstrap.NewPilotArgs(func(p *bootstrap.PilotArgs) {
		p.Namespace = "istio-system"
		p.PodName = "istiod-0"
		p.MeshConfigFile = *mesh
		p.NetworksConfigFile = "/nonexistent"
		p.ServerOptions.HTTPAddr = *httpAddr
		p.ServerOptions.MonitoringAddr = *monitoring
		p.ServerOptions.GRPCAddr = *grpc
		p.ServerOptions.SecureGRPCAddr = *tls
		p.ServerOptions.HTTPSAddr = ""
		p.RegistryOptions.FileDir = *istioDir
		p.RegistryOptions.Registries = []string{"Kubernetes"}
		p.RegistryOptions.KubeOptions.DomainSuffix = "cluster.local"
		p.RegistryOptions.KubeOptions.ClusterID = cluster.ID("Kubernetes")
		p.RegistryOptions.KubeOptions.StatusWritingEnabled = activenotifier.New(false)
		p.ShutdownDuration = time.Second
	})
	server, err := bootstrap.NewServer(args, func(s *bootstrap.Server) { setKubeClient(s, client) })
	check(err)
	stop := make(chan struct{})
	check(server.Start(stop))
	serveAdmin(*admin, clientset)
	if *ca != "" {
		secret, err := clientset.CoreV1().Secrets("istio-system").Get(context.Background(), "istio-ca-secret", metav1.GetOptions{})
		check(err)
		kept, err := json.Marshal(secret)
		check(err)
		check(os.WriteFile(*ca, kept, 0o600))
	}
	if *root != "" {
		check(os.WriteFile(*root, server.CA.GetCAKeyCertBundle().GetRootCertPem(), 0o644))
	}
	fmt.Println("ready", *grpc)

	sig := make(chan os.Signal, 1)
	signal.Notify(sig, syscall.SIGINT, syscall.SIGTERM)
	<-sig
	close(stop)
	server.WaitUntilCompletion()
}

// setKubeClient gives istiod the in-memory client; the field has no setter.
func setKubeClient(s *bootstrap.Server, c kube.Client) {
	f := reflect.ValueOf(s).Elem().FieldByName("kubeClient")
	reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem().Set(reflect.ValueOf(c))
}

func acceptTokens(c *fake.Clientset) {
	c.PrependReactor("create", "tokenreviews", func(a k8stesting.Action) (bool, runtime.Object, error) {
		review := a.(k8stesting.CreateAction).GetObject().(*authn.TokenReview).DeepCopy()
		parts := strings.Split(strings.TrimSpace(review.Spec.Token), "/")
		if len(parts) < 2 {
			review.Status.Error = "token is not NAMESPACE/SERVICEACCOUNT"
			return true, review, nil
		}
		review.Status = authn.TokenReviewStatus{Authenticated: true, Audiences: review.Spec.Audiences, User: authn.UserInfo{
			Username: "system:serviceaccount:" + parts[0] + ":" + parts[1],
			Groups:   []string{"system:serviceaccounts", "system:authenticated"},
		}}
		if len(parts) > 2 {
			review.Status.User.Extra = map[string]authn.ExtraValue{"authentication.kubernetes.io/pod-name": {parts[2]}}
		}
		return true, review, nil
	})
	c.PrependReactor("create", "subjectaccessreviews", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, &authz.SubjectAccessReview{Status: authz.SubjectAccessReviewStatus{Allowed: true}}, nil
	})
}

func parse(s string) ([]runtime.Object, error) {
	decode := kube.IstioCodec.UniversalDeserializer().Decode
	var out []runtime.Object
	for _, doc := range strings.Split("\n"+s, "\n---") {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		o, _, err := decode([]byte(doc), nil, nil)
		if err != nil {
			return nil, fmt.Errorf("%w in:\n%s", err, doc)
		}
		out = append(out, o)
	}
	return out, nil
}

func namespaces(objects []runtime.Object) []runtime.Object {
	seen := map[string]bool{}
	var out []runtime.Object
	add := func(ns string) {
		if ns != "" && !seen[ns] {
			seen[ns] = true
			out = append(out, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}})
		}
	}
	for _, o := range objects {
		if n, ok := o.(*corev1.Namespace); ok {
			seen[n.Name] = true
		}
	}
	add("istio-system")
	add("default")
	for _, o := range objects {
		add(o.(metav1.Object).GetNamespace())
	}
	return out
}

func serveAdmin(addr string, c *fake.Clientset) {
	change := func(apply bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			if err == nil {
				var objects []runtime.Object
				if objects, err = parse(string(b)); err == nil {
					for _, o := range objects {
						if err = put(c, o, apply); err != nil {
							break
						}
					}
				}
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
			}
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /apply", change(true))
	mux.HandleFunc("POST /delete", change(false))
	l, err := net.Listen("tcp", addr)
	check(err)
	go func() { check(http.Serve(l, mux)) }()
}

func put(c *fake.Clientset, o runtime.Object, apply bool) error {
	ctx := context.Background()
	core, disc := c.CoreV1(), c.DiscoveryV1()
	var create, update, remove func() error
	switch v := o.(type) {
	case *corev1.Service:
		i := core.Services(v.Namespace)
		create = func() error { _, err := i.Create(ctx, v, metav1.CreateOptions{}); return err }
		update = func() error { _, err := i.Update(ctx, v, metav1.UpdateOptions{}); return err }
		remove = func() error { return i.Delete(ctx, v.Name, metav1.DeleteOptions{}) }
	case *corev1.Pod:
		i := core.Pods(v.Namespace)
		create = func() error { _, err := i.Create(ctx, v, metav1.CreateOptions{}); return err }
		update = func() error { _, err := i.Update(ctx, v, metav1.UpdateOptions{}); return err }
		remove = func() error { return i.Delete(ctx, v.Name, metav1.DeleteOptions{}) }
	case *corev1.Secret:
		i := core.Secrets(v.Namespace)
		create = func() error { _, err := i.Create(ctx, v, metav1.CreateOptions{}); return err }
		update = func() error { _, err := i.Update(ctx, v, metav1.UpdateOptions{}); return err }
		remove = func() error { return i.Delete(ctx, v.Name, metav1.DeleteOptions{}) }
	case *discoveryv1.EndpointSlice:
		i := disc.EndpointSlices(v.Namespace)
		create = func() error { _, err := i.Create(ctx, v, metav1.CreateOptions{}); return err }
		update = func() error { _, err := i.Update(ctx, v, metav1.UpdateOptions{}); return err }
		remove = func() error { return i.Delete(ctx, v.Name, metav1.DeleteOptions{}) }
	default:
		return fmt.Errorf("%T cannot be changed while the lab runs", o)
	}
	if !apply {
		return remove()
	}
	err := create()
	if kerrors.IsAlreadyExists(err) {
		err = update()
	}
	return err
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}
