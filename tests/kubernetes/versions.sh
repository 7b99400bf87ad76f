# What is compiled, and from which Debian 12 packages. Sourced; a change here compiles everything again.
# shellcheck shell=bash disable=SC2034
KUBERNETES_VERSION=v1.20.2
KUBERNETES_COMMIT=faecb196815e248d3ecfb03c680a4507229c2a56
KUBERNETES_DATE=2021-01-13T13:20:00Z
KUBERNETES_BINARIES=(kubeadm kubectl kubelet kube-apiserver kube-controller-manager kube-scheduler kube-proxy)
PAUSE_VERSION=3.2

# Debian 13 and later ship only kubectl's part of the tree; this is the last whole one.
SOURCE_PACKAGE=kubernetes
BUILD_PACKAGES=(golang-1.19-go golang-1.19-src golang-github-modern-go-reflect2-dev)
