#!/bin/bash
# plain-node.sh NUMBER: what a good admin's script does on one server, next to the files that were copied:
# packages, programs, settings, images. Its pods get 10.244.NUMBER.0/24.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p /etc/containerd /etc/cni/net.d /etc/systemd/system/kubelet.service.d
# restrict_oom_score_adj: containers in the lab can't be given more than their host has.
cat >/etc/containerd/config.toml <<'END'
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "k8s.gcr.io/pause:3.2"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
END
cat >/etc/cni/net.d/10-bridge.conflist <<END
{"cniVersion": "0.3.1", "name": "bridge", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.$1.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
END
printf '%s\n' net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1 >/etc/sysctl.d/99-kubernetes.conf
sysctl -q -p /etc/sysctl.d/99-kubernetes.conf
DEBIAN_FRONTEND=noninteractive dpkg --force-confold --install ./*.deb >dpkg.log 2>&1 || { tail dpkg.log; exit 1; }
for program in kubeadm kubelet kubectl crictl; do
  if [ -e "$program" ]; then install "$program" /usr/local/bin/; fi
done
cat >/etc/systemd/system/kubelet.service <<'END'
[Unit]
After=containerd.service
StartLimitIntervalSec=0
[Service]
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
ExecStart=/usr/local/bin/kubelet --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf --kubeconfig=/etc/kubernetes/kubelet.conf --config=/var/lib/kubelet/config.yaml $KUBELET_KUBEADM_ARGS
Restart=always
RestartSec=2
[Install]
WantedBy=multi-user.target
END
systemctl daemon-reload
systemctl enable --quiet kubelet
ctr --namespace k8s.io images import images.tar >/dev/null
