package main

import (
	"strings"
	"testing"

	"github.com/miekg/dns"
	v1 "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

func fixture(t *testing.T) *records {
	services := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	endpoints := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	named := func(name string) meta.ObjectMeta { return meta.ObjectMeta{Namespace: "default", Name: name} }
	http := []v1.ServicePort{{Name: "http", Protocol: v1.ProtocolTCP, Port: 80, TargetPort: intstr.FromInt(8080)}}
	for _, s := range []*v1.Service{
		{ObjectMeta: named("web"), Spec: v1.ServiceSpec{ClusterIP: "10.96.0.7", Ports: http}},
		{ObjectMeta: named("db"), Spec: v1.ServiceSpec{ClusterIP: v1.ClusterIPNone, Ports: http}},
		{ObjectMeta: named("out"), Spec: v1.ServiceSpec{Type: v1.ServiceTypeExternalName, ExternalName: "example.org"}},
	} {
		if err := services.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	if err := endpoints.Add(&v1.Endpoints{ObjectMeta: named("db"), Subsets: []v1.EndpointSubset{{
		Addresses:         []v1.EndpointAddress{{IP: "10.244.0.3", Hostname: "db-0"}, {IP: "10.244.1.4"}},
		NotReadyAddresses: []v1.EndpointAddress{{IP: "10.244.2.5"}},
	}}}); err != nil {
		t.Fatal(err)
	}
	return &records{"cluster.local.", corelisters.NewServiceLister(services), corelisters.NewEndpointsLister(endpoints)}
}

func TestAnswersFollowServicesAndEndpoints(t *testing.T) {
	r := fixture(t)
	for _, c := range []struct {
		name string
		kind uint16
		code int
		want string
	}{
		{"web.default.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, "A 10.96.0.7"},
		{"WEB.default.svc.Cluster.Local.", dns.TypeA, dns.RcodeSuccess, "A 10.96.0.7"},
		{"web.default.svc.cluster.local.", dns.TypeAAAA, dns.RcodeSuccess, ""},
		{"web.other.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, ""},
		{"web.default.svc.cluster.local.default.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, ""},
		{"db.default.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, "A 10.244.0.3;A 10.244.1.4"},
		{"db-0.db.default.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, "A 10.244.0.3"},
		{"10-244-1-4.db.default.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, "A 10.244.1.4"},
		{"db-9.db.default.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, ""},
		{"out.default.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, "CNAME example.org."},
		{"_http._tcp.web.default.svc.cluster.local.", dns.TypeSRV, dns.RcodeSuccess, "SRV 0 100 80 web.default.svc.cluster.local."},
		{"_http._udp.web.default.svc.cluster.local.", dns.TypeSRV, dns.RcodeNameError, ""},
		{"_http._tcp.db.default.svc.cluster.local.", dns.TypeSRV, dns.RcodeSuccess,
			"SRV 0 100 8080 db-0.db.default.svc.cluster.local.;SRV 0 100 8080 10-244-1-4.db.default.svc.cluster.local."},
		{"7.0.96.10.in-addr.arpa.", dns.TypePTR, dns.RcodeSuccess, "PTR web.default.svc.cluster.local."},
		{"3.0.244.10.in-addr.arpa.", dns.TypePTR, dns.RcodeSuccess, "PTR db-0.db.default.svc.cluster.local."},
		{"8.0.96.10.in-addr.arpa.", dns.TypePTR, dns.RcodeNameError, ""},
		{"10-244-1-9.default.pod.cluster.local.", dns.TypeA, dns.RcodeSuccess, "A 10.244.1.9"},
		{"svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, ""},
		{"nonsense.cluster.local.", dns.TypeA, dns.RcodeNameError, ""},
	} {
		found, code := r.answer(dns.Question{Name: c.name, Qtype: c.kind, Qclass: dns.ClassINET})
		var texts []string
		for _, rr := range found {
			if rr.Header().Name != c.name {
				t.Errorf("%s: the answer is for %s", c.name, rr.Header().Name)
			}
			texts = append(texts, strings.Join(strings.Fields(rr.String())[3:], " "))
		}
		if got := strings.Join(texts, ";"); got != c.want || code != c.code {
			t.Errorf("%s %s: got %q, %s, want %q, %s", c.name, dns.TypeToString[c.kind],
				got, dns.RcodeToString[code], c.want, dns.RcodeToString[c.code])
		}
	}
}

func TestTheZoneIsReadFromTheCorefile(t *testing.T) {
	for file, want := range map[string]string{
		".:53 {\n    errors\n    kubernetes example.lan in-addr.arpa ip6.arpa {\n       pods insecure\n    }\n}\n": "example.lan.",
		".:53 {\n    kubernetes Cluster.Local {\n    }\n}\n": "cluster.local.",
		".:53 {\n    forward . /etc/resolv.conf\n}\n":         "cluster.local.",
	} {
		if got := zoneOf(file); got != want {
			t.Errorf("got %q, want %q from:\n%s", got, want, file)
		}
	}
}

func TestALongAnswerIsCutToOneDatagramAndSaysSo(t *testing.T) {
	query := new(dns.Msg).SetQuestion("db.default.svc.cluster.local.", dns.TypeA)
	reply := new(dns.Msg).SetReply(query)
	for i := 0; i < 100; i++ {
		reply.Answer = append(reply.Answer, addresses(query.Question[0], []string{"10.244.0.1"})...)
	}
	fit(query, reply)
	if !reply.Truncated || reply.Len() > dns.MinMsgSize || len(reply.Answer) == 0 {
		t.Errorf("truncated %v, %d bytes, %d answers", reply.Truncated, reply.Len(), len(reply.Answer))
	}
}
