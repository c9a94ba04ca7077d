// Package check holds the files in contrib to the schemas of those that read them: as
// the API server of Kubernetes and Docker Compose would. It is a module of its own, so
// that nobody else depends on these.
//
// What the Caddyfile in the manifest does, docs/kubernetes_test.go tests.
package check

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/apps"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	appsvalidation "k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/apis/policy"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	policyvalidation "k8s.io/kubernetes/pkg/apis/policy/validation"
	"k8s.io/pod-security-admission/api"
	podsecurity "k8s.io/pod-security-admission/policy"
)

const manifest = "../kubernetes/streamprox.yaml"

// strict decodes as the API server does where unknown and repeated fields are errors.
var strict = serializer.NewCodecFactory(legacyscheme.Scheme, serializer.EnableStrict)

// objects are those of the manifest.
type objects struct {
	config     *corev1.ConfigMap
	data       *corev1.PersistentVolumeClaim
	deployment *appsv1.Deployment
	budget     *policyv1.PodDisruptionBudget
	service    *corev1.Service
}

// parse decodes and validates a manifest.
func parse(source []byte) (objects, error) {
	var o objects
	reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(source)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return o, nil
		}
		if err != nil {
			return o, err
		}
		object, _, err := strict.UniversalDeserializer().Decode(document, nil, nil)
		if err != nil {
			return o, err
		}
		switch object := object.(type) {
		case *corev1.ConfigMap:
			o.config = object
		case *corev1.PersistentVolumeClaim:
			o.data = object
		case *appsv1.Deployment:
			o.deployment = object
		case *policyv1.PodDisruptionBudget:
			o.budget = object
		case *corev1.Service:
			o.service = object
		default:
			return o, fmt.Errorf("a %T, of which this test knows nothing", object)
		}
		if err := validate(object); err != nil {
			return o, fmt.Errorf("%T: %w", object, err)
		}
	}
}

// validate says what the API server has against an object, once it has set the defaults.
func validate(object runtime.Object) error {
	object = object.DeepCopyObject()
	object.(metav1.Object).SetNamespace("default")
	legacyscheme.Scheme.Default(object)
	internal, err := legacyscheme.Scheme.UnsafeConvertToVersion(object, runtime.InternalGroupVersioner)
	if err != nil {
		return err
	}
	var found field.ErrorList
	switch internal := internal.(type) {
	case *core.ConfigMap:
		found = corevalidation.ValidateConfigMap(internal)
	case *core.PersistentVolumeClaim:
		found = corevalidation.ValidatePersistentVolumeClaim(internal, corevalidation.ValidationOptionsForPersistentVolumeClaim(internal, nil))
	case *apps.Deployment:
		found = appsvalidation.ValidateDeployment(internal, podutil.GetValidationOptionsFromPodTemplate(&internal.Spec.Template, nil))
	case *policy.PodDisruptionBudget:
		found = policyvalidation.ValidatePodDisruptionBudget(internal, policyvalidation.PodDisruptionBudgetValidationOptions{})
	case *core.Service:
		internal.Spec.HealthCheckNodePort = 30000 // the API server chooses one
		found = corevalidation.ValidateServiceCreate(internal)
	default:
		return fmt.Errorf("no validation of %T", internal)
	}
	return found.ToAggregate()
}

func TestKubernetes(t *testing.T) {
	source := read(t, manifest)
	o, err := parse(source)
	if err != nil {
		t.Fatal(err)
	}
	if o.config == nil || o.data == nil || o.deployment == nil || o.budget == nil || o.service == nil {
		t.Fatalf("an object is missing: %+v", o)
	}
	template := o.deployment.Spec.Template
	pod, container := template.Spec, template.Spec.Containers[0]

	// Who selects pods selects these.
	budget, err := metav1.LabelSelectorAsSelector(o.budget.Spec.Selector)
	if err != nil {
		t.Fatal(err)
	}
	for name, selector := range map[string]labels.Selector{"budget": budget, "service": labels.SelectorFromSet(o.service.Spec.Selector)} {
		if selector.Empty() || !selector.Matches(labels.Set(template.Labels)) {
			t.Errorf("the %s selects %s, and the pods are %v", name, selector, template.Labels)
		}
	}

	// Names of ports and volumes lead somewhere.
	ports := make(map[string]int32)
	for _, port := range container.Ports {
		ports[port.Name] = port.ContainerPort
	}
	for _, port := range o.service.Spec.Ports {
		if got := ports[port.TargetPort.StrVal]; got != port.Port {
			t.Errorf("the service's port %d leads to %d", port.Port, got)
		}
		if !strings.Contains(o.config.Data["Caddyfile"], fmt.Sprintf(":%d ", port.Port)) {
			t.Errorf("the Caddyfile has no port %d", port.Port)
		}
	}
	for name, probe := range map[string]*corev1.Probe{"readiness": container.ReadinessProbe, "liveness": container.LivenessProbe} {
		if probe.HTTPGet.Port != intstr.FromString("probes") || ports["probes"] == 0 {
			t.Errorf("the %s probe asks port %v, of %v", name, probe.HTTPGet.Port, ports)
		}
	}
	volumes := make(map[string]corev1.Volume)
	for _, volume := range pod.Volumes {
		volumes[volume.Name] = volume
	}
	mounts := make(map[string]corev1.VolumeMount)
	for _, mount := range container.VolumeMounts {
		mounts[mount.MountPath] = mount
	}
	if source := volumes[mounts["/etc/caddy"].Name].ConfigMap; source == nil || source.Name != o.config.Name {
		t.Errorf("/etc/caddy is %v", volumes[mounts["/etc/caddy"].Name])
	}
	if source := volumes[mounts["/data"].Name].PersistentVolumeClaim; source == nil || source.ClaimName != o.data.Name {
		t.Errorf("/data is %v", volumes[mounts["/data"].Name])
	}

	// It ends by itself before it is killed.
	sleep, err := time.ParseDuration(container.Lifecycle.PreStop.Exec.Command[1] + "s")
	if err != nil {
		t.Fatal(err)
	}
	if patience, needs := time.Duration(*pod.TerminationGracePeriodSeconds)*time.Second, sleep+shutdown(t, o.config.Data["Caddyfile"]); patience <= needs {
		t.Errorf("killed after %s, and may need %s", patience, needs)
	}

	// It needs no exception where pods are restricted.
	evaluator, err := podsecurity.NewEvaluator(podsecurity.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	level := api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}
	if result := podsecurity.AggregateCheckResults(evaluator.EvaluatePod(level, &template.ObjectMeta, &pod)); !result.Allowed {
		t.Errorf("the pods are not restricted: %s", result.ForbiddenDetail())
	}
	if user := fmt.Sprintf("USER %d:%d", *pod.SecurityContext.RunAsUser, *pod.SecurityContext.RunAsGroup); !strings.Contains(string(read(t, "../../Dockerfile")), user) {
		t.Errorf("the Dockerfile has no %s", user)
	}
}

// TestWrongManifests tests that a manifest which is wrong is found.
func TestWrongManifests(t *testing.T) {
	source := string(read(t, manifest))
	for _, test := range []struct{ name, from, to, want string }{
		{"unknown field", "  replicas: 3", "  replica: 3", `unknown field "spec.replica"`},
		{"unknown kind", "kind: Service\n", "kind: Servise\n", `no kind "Servise"`},
		{"another type", "periodSeconds: 5", "periodSeconds: often", "cannot unmarshal string"},
		{"field twice", "      storage: 1Gi", "      storage: 1Gi\n      storage: 2Gi", "already set"},
		{"selector", "    matchLabels: {app.kubernetes.io/name: streamprox}\n  # A new", "    matchLabels: {app.kubernetes.io/name: other}\n  # A new", "`selector` does not match template `labels`"},
		{"probe without a path", "httpGet: {path: /ready, port: probes}", "tcpSocket: {}", "port"},
		{"sysctl", "net.ipv4.ip_unprivileged_port_start", "net ipv4", "sysctls"},
		{"memory", "memory: 512Mi", "memory: 64Mi", "must be less than or equal to memory limit"},
		{"mount", "{name: data, mountPath: /data}", "{name: date, mountPath: /data}", `Not found: "date"`},
		{"Service's port", "port: 443, targetPort", "port: 99999, targetPort", "between 1 and 65535"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if strings.Count(source, test.from) != 1 {
				t.Fatalf("%q is not in the manifest once", test.from)
			}
			_, err := parse([]byte(strings.Replace(source, test.from, test.to, 1)))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error that holds %q", err, test.want)
			}
		})
	}
}

func TestCompose(t *testing.T) {
	options, err := cli.NewProjectOptions([]string{"../compose.yaml"}, cli.WithResolvedPaths(true))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	service, err := project.GetService("caddy")
	if err != nil {
		t.Fatal(err)
	}
	dockerfile := string(read(t, filepath.Join(service.Build.Context, service.Build.Dockerfile)))

	// The ports and folders are the image's.
	var ports []string
	for _, port := range service.Ports {
		protocol := ""
		if port.Protocol == "udp" {
			protocol = "/udp"
		}
		if port.Published != fmt.Sprint(port.Target) {
			t.Errorf("port %d is published as %s", port.Target, port.Published)
		}
		ports = append(ports, port.Published+protocol)
	}
	if line := "\nEXPOSE " + strings.Join(ports, " ") + "\n"; !strings.Contains(dockerfile, line) {
		t.Errorf("no line %q in the Dockerfile", line)
	}
	mounts := make(map[string]types.ServiceVolumeConfig)
	for _, mount := range service.Volumes {
		mounts[mount.Target] = mount
	}
	for _, folder := range []string{"/data", "/config"} {
		if mounts[folder].Type != types.VolumeTypeVolume {
			t.Errorf("%s is %+v, want a volume", folder, mounts[folder])
		}
		if !regexp.MustCompile(`(?m)^VOLUME\b.* ` + folder + `\b`).MatchString(dockerfile) {
			t.Errorf("no volume %s in the Dockerfile", folder)
		}
	}
	config := mounts["/etc/caddy"]
	if config.Type != types.VolumeTypeBind || !config.ReadOnly {
		t.Errorf("/etc/caddy is %+v, want a folder that is only read", config)
	}
	caddyfile := string(read(t, filepath.Join(config.Source, "Caddyfile")))

	// It ends by itself before it is killed.
	if service.StopGracePeriod == nil {
		t.Fatal("no stop_grace_period")
	}
	if patience, needs := time.Duration(*service.StopGracePeriod), shutdown(t, caddyfile); patience <= needs {
		t.Errorf("killed after %s, and may need %s", patience, needs)
	}
}

// TestWrongCompose tests that a file which is wrong is found.
func TestWrongCompose(t *testing.T) {
	source := string(read(t, "../compose.yaml"))
	for _, test := range []struct{ name, from, to, want string }{
		{"unknown field", "restart:", "restarts:", "services.caddy.restarts"},
		{"unknown volume", "data:/data", "date:/data", "undefined volume date"},
		{"duration", "stop_grace_period: 30s", "stop_grace_period: 30", "services.caddy.stop_grace_period"},
		{"port", `"80:80"`, `"80:http"`, "http"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if strings.Count(source, test.from) != 1 {
				t.Fatalf("%q is not in the file once", test.from)
			}
			file := filepath.Join(t.TempDir(), "compose.yaml")
			if err := os.WriteFile(file, []byte(strings.Replace(source, test.from, test.to, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			options, err := cli.NewProjectOptions([]string{file})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := options.LoadProject(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error that holds %q", err, test.want)
			}
		})
	}
}

var gracePeriod = regexp.MustCompile(`(?m)^\s+grace_period (\S+)$`)

// shutdown returns how long Caddy may take to end: the HTTP app waits for its requests
// for the grace period, and then relay for its streams.
func shutdown(t *testing.T, caddyfile string) time.Duration {
	t.Helper()
	found := gracePeriod.FindStringSubmatch(caddyfile)
	if found == nil {
		t.Fatal("no grace_period in the Caddyfile: the HTTP app waits without end")
	}
	grace, err := time.ParseDuration(found[1])
	if err != nil {
		t.Fatal(err)
	}
	return 2 * grace
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
}
