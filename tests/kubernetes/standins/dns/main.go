// dns stands where CoreDNS stands in the lab's clusters, since Debian has no CoreDNS.
//
// It takes CoreDNS's -conf flag (of the Corefile it reads the zone only), listens on CoreDNS's
// ports (53 for queries, 8080 /health, 8181 /ready, 9153 /metrics), answers for Services, endpoints
// and pods from the API server it runs under, and forwards other names to /etc/resolv.conf's servers.
package main

import (
	"flag"
	"fmt"
	"io/ioutil"
	"log"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
)

// server is what one process serves, and its counters.
type server struct {
	records *records
	ready   int32
	queries [dns.RcodeRefused + 1]uint64 // by response code
}

func main() {
	corefile := flag.String("conf", "", "Corefile; only the zone of its kubernetes block is read")
	port := flag.String("dns.port", "53", "port for queries")
	kubeconfig := flag.String("kubeconfig", "", "for a start outside of a pod")
	version := flag.Bool("version", false, "print the name and stop")
	flag.Parse()
	if *version {
		fmt.Println("kdc-lab-dns (stands in for CoreDNS)")
		return
	}
	zone := zoneOf("")
	if *corefile != "" {
		text, err := ioutil.ReadFile(*corefile)
		if err != nil {
			log.Fatal(err)
		}
		zone = zoneOf(string(text))
	}
	s := &server{}
	go s.serveStatus()
	if err := s.watch(*kubeconfig, zone); err != nil {
		log.Fatal(err)
	}
	log.Printf("answering for %s on port %s", zone, *port)
	dns.HandleFunc(".", s.handle)
	go func() { log.Fatal((&dns.Server{Addr: ":" + *port, Net: "tcp"}).ListenAndServe()) }()
	log.Fatal((&dns.Server{Addr: ":" + *port, Net: "udp"}).ListenAndServe())
}

// zoneOf finds the first zone of the Corefile's kubernetes block.
func zoneOf(corefile string) string {
	for _, line := range strings.Split(corefile, "\n") {
		if words := strings.Fields(line); len(words) > 1 && words[0] == "kubernetes" {
			return strings.ToLower(dns.Fqdn(words[1]))
		}
	}
	return "cluster.local."
}

// watch fills the records from the API server and returns once they are complete.
func (s *server) watch(kubeconfig, zone string) error {
	config, err := rest.InClusterConfig()
	if kubeconfig != "" {
		config, err = clientcmd.BuildConfigFromFlags("", kubeconfig)
	}
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	core := informers.NewSharedInformerFactory(client, 0).Core().V1()
	services, endpoints := core.Services().Informer(), core.Endpoints().Informer()
	forever := make(chan struct{})
	go services.Run(forever)
	go endpoints.Run(forever)
	cache.WaitForCacheSync(forever, services.HasSynced, endpoints.HasSynced)
	s.records = &records{zone, core.Services().Lister(), core.Endpoints().Lister()}
	atomic.StoreInt32(&s.ready, 1)
	return nil
}

func (s *server) handle(w dns.ResponseWriter, query *dns.Msg) {
	reply := new(dns.Msg).SetReply(query)
	reply.Authoritative, reply.RecursionAvailable = true, true
	if len(query.Question) != 1 {
		reply.Rcode = dns.RcodeFormatError
	} else if q := query.Question[0]; dns.IsSubDomain(s.records.zone, strings.ToLower(q.Name)) {
		reply.Answer, reply.Rcode = s.records.answer(q)
	} else if dns.IsSubDomain("in-addr.arpa.", strings.ToLower(q.Name)) {
		reply.Answer, reply.Rcode = s.records.answer(q)
	} else {
		reply = forward(query)
	}
	if _, datagram := w.RemoteAddr().(*net.UDPAddr); datagram {
		fit(query, reply)
	}
	if reply.Rcode < len(s.queries) {
		atomic.AddUint64(&s.queries[reply.Rcode], 1)
	}
	if err := w.WriteMsg(reply); err != nil {
		log.Printf("answer to %s: %v", w.RemoteAddr(), err)
	}
}

// fit cuts a reply to what the asker takes in one datagram, and says so, so that it asks over TCP.
func fit(query, reply *dns.Msg) {
	size := dns.MinMsgSize
	if edns := query.IsEdns0(); edns != nil && int(edns.UDPSize()) > size {
		size = int(edns.UDPSize())
	}
	for reply.Len() > size && len(reply.Answer) > 0 {
		reply.Truncated, reply.Answer = true, reply.Answer[:len(reply.Answer)-1]
	}
}

// forward asks the servers of the pod's resolv.conf in turn.
func forward(query *dns.Msg) *dns.Msg {
	failed := new(dns.Msg).SetRcode(query, dns.RcodeServerFailure)
	config, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil {
		return failed
	}
	client := &dns.Client{Timeout: 2 * time.Second}
	for _, upstream := range config.Servers {
		if reply, _, err := client.Exchange(query, net.JoinHostPort(upstream, config.Port)); err == nil {
			return reply
		}
	}
	return failed
}

// serveStatus answers the probes and scrapes that a CoreDNS deployment is set up with.
func (s *server) serveStatus() {
	listen := func(address, path string, handler http.HandlerFunc) {
		mux := http.NewServeMux()
		mux.HandleFunc(path, handler)
		log.Fatal(http.ListenAndServe(address, mux))
	}
	go listen(":8080", "/health", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "OK") })
	go listen(":8181", "/ready", func(w http.ResponseWriter, _ *http.Request) {
		if atomic.LoadInt32(&s.ready) == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, "OK")
	})
	listen(":9153", "/metrics", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "# TYPE coredns_dns_responses_total counter")
		for code := range s.queries {
			fmt.Fprintf(w, "coredns_dns_responses_total{rcode=%q} %d\n", dns.RcodeToString[code], atomic.LoadUint64(&s.queries[code]))
		}
	})
}
