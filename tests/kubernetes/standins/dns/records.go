package main

import (
	"net"
	"strings"

	"github.com/miekg/dns"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// ttl is short, as the records of a cluster change with its pods.
const ttl = 5

// records answers questions below the zone from what the API server holds.
type records struct {
	zone      string // fully qualified, lower case: "cluster.local."
	services  corelisters.ServiceLister
	endpoints corelisters.EndpointsLister
}

// answer gives the records for a question and the response code. The caller has to ask only for
// names that are inside the zone or below in-addr.arpa.
func (r *records) answer(q dns.Question) ([]dns.RR, int) {
	name := strings.ToLower(dns.Fqdn(q.Name))
	if strings.HasSuffix(name, ".in-addr.arpa.") {
		return r.reverse(q, name)
	}
	labels := dns.SplitDomainName(strings.TrimSuffix(name, r.zone))
	n := len(labels)
	switch {
	case n == 1 && labels[0] == "dns-version":
		return text(q, "1.1.0"), dns.RcodeSuccess
	case n == 3 && labels[2] == "pod":
		return pod(q, labels[0])
	case n >= 3 && labels[n-1] == "svc":
		return r.service(q, labels[:n-3], labels[n-3], labels[n-2])
	case n == 0 || n == 1 && (labels[0] == "svc" || labels[0] == "pod"):
		return nil, dns.RcodeSuccess // names with something below them, but nothing of their own
	}
	return nil, dns.RcodeNameError
}

// service answers for NAME.NAMESPACE.svc and for what is in front of it: nothing, the host name
// of one endpoint, or _port._protocol.
func (r *records) service(q dns.Question, front []string, name, namespace string) ([]dns.RR, int) {
	service, err := r.services.Services(namespace).Get(name)
	if err != nil {
		return nil, dns.RcodeNameError
	}
	full := name + "." + namespace + ".svc." + r.zone
	switch len(front) {
	case 0:
		if service.Spec.Type == v1.ServiceTypeExternalName {
			return []dns.RR{&dns.CNAME{Hdr: header(q.Name, dns.TypeCNAME), Target: dns.Fqdn(service.Spec.ExternalName)}}, dns.RcodeSuccess
		}
		if q.Qtype == dns.TypeSRV {
			return r.ports(q, service, full, "", ""), dns.RcodeSuccess
		}
		return addresses(q, r.serviceAddresses(service)), dns.RcodeSuccess
	case 1:
		for _, e := range r.ready(service) {
			if hostname(e) == front[0] {
				return addresses(q, []string{e.IP}), dns.RcodeSuccess
			}
		}
	case 2:
		port, protocol := strings.TrimPrefix(front[0], "_"), strings.TrimPrefix(front[1], "_")
		if found := r.ports(q, service, full, port, protocol); len(found) > 0 {
			return found, dns.RcodeSuccess
		}
	}
	return nil, dns.RcodeNameError
}

// ports gives SRV records, all of them or those of one named port: one for a Service with an
// address of its own, one for each endpoint of a headless Service.
func (r *records) ports(q dns.Question, service *v1.Service, full, port, protocol string) []dns.RR {
	var out []dns.RR
	add := func(p v1.ServicePort, number int32, target string) {
		if port != "" && (p.Name != port || strings.ToLower(string(p.Protocol)) != protocol) {
			return
		}
		out = append(out, &dns.SRV{Hdr: header(q.Name, dns.TypeSRV), Weight: 100, Port: uint16(number), Target: target})
	}
	for _, p := range service.Spec.Ports {
		if service.Spec.ClusterIP != v1.ClusterIPNone {
			add(p, p.Port, full)
			continue
		}
		for _, e := range r.ready(service) {
			add(p, p.TargetPort.IntVal, hostname(e)+"."+full)
		}
	}
	return out
}

// reverse answers PTR questions for the addresses of Services and of named endpoints.
func (r *records) reverse(q dns.Question, name string) ([]dns.RR, int) {
	address := net.ParseIP(reversed(strings.TrimSuffix(name, ".in-addr.arpa."))).String()
	all, err := r.services.List(labels.Everything())
	if err != nil {
		return nil, dns.RcodeServerFailure
	}
	for _, service := range all {
		full := service.Name + "." + service.Namespace + ".svc." + r.zone
		if service.Spec.ClusterIP == address {
			return []dns.RR{&dns.PTR{Hdr: header(q.Name, dns.TypePTR), Ptr: full}}, dns.RcodeSuccess
		}
		if service.Spec.ClusterIP != v1.ClusterIPNone {
			continue
		}
		for _, e := range r.ready(service) {
			if e.IP == address && e.Hostname != "" {
				return []dns.RR{&dns.PTR{Hdr: header(q.Name, dns.TypePTR), Ptr: e.Hostname + "." + full}}, dns.RcodeSuccess
			}
		}
	}
	return nil, dns.RcodeNameError
}

func (r *records) serviceAddresses(service *v1.Service) []string {
	if service.Spec.ClusterIP != v1.ClusterIPNone {
		return []string{service.Spec.ClusterIP}
	}
	var out []string
	for _, e := range r.ready(service) {
		out = append(out, e.IP)
	}
	return out
}

// ready gives the endpoints of a Service that take traffic.
func (r *records) ready(service *v1.Service) []v1.EndpointAddress {
	found, err := r.endpoints.Endpoints(service.Namespace).Get(service.Name)
	if err != nil {
		return nil
	}
	var out []v1.EndpointAddress
	for _, subset := range found.Subsets {
		out = append(out, subset.Addresses...)
	}
	return out
}

// hostname is an endpoint's own name, or its address with dashes.
func hostname(e v1.EndpointAddress) string {
	if e.Hostname != "" {
		return e.Hostname
	}
	return strings.ReplaceAll(e.IP, ".", "-")
}

// pod answers 10-244-1-3.NAMESPACE.pod with the address in the name, as "pods insecure" does.
func pod(q dns.Question, dashed string) ([]dns.RR, int) {
	address := strings.ReplaceAll(dashed, "-", ".")
	if net.ParseIP(address).To4() == nil {
		return nil, dns.RcodeNameError
	}
	return addresses(q, []string{address}), dns.RcodeSuccess
}

// addresses gives A records; other types have no data here, since the lab is IPv4 only.
func addresses(q dns.Question, all []string) []dns.RR {
	if q.Qtype != dns.TypeA && q.Qtype != dns.TypeANY {
		return nil
	}
	var out []dns.RR
	for _, address := range all {
		if ip := net.ParseIP(address).To4(); ip != nil {
			out = append(out, &dns.A{Hdr: header(q.Name, dns.TypeA), A: ip})
		}
	}
	return out
}

func text(q dns.Question, value string) []dns.RR {
	if q.Qtype != dns.TypeTXT {
		return nil
	}
	return []dns.RR{&dns.TXT{Hdr: header(q.Name, dns.TypeTXT), Txt: []string{value}}}
}

func header(name string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

func reversed(dotted string) string {
	parts := strings.Split(dotted, ".")
	for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
		parts[i], parts[j] = parts[j], parts[i]
	}
	return strings.Join(parts, ".")
}
