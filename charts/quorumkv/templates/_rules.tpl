{{/* What the operator's code does, and no more: the table at the top of operator/src/controller.rs. */}}
{{- define "quorumkv.operatorRules" -}}
# The spec is read, and the record read live before every election; the annotation that asks for a switchover is
# taken away. With page.allowChanges, quorum and delay are patched for whoever wishes it.
- apiGroups: [quorumkv.io]
  resources: [kvclusters]
  verbs: [get, list, watch, patch]
# The record of epochs, leaders and members, and the report to users.
- apiGroups: [quorumkv.io]
  resources: [kvclusters/status]
  verbs: [patch]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch]
# The peer token of each store, made once, and certificates: read by name, and replaced where the operator makes them
# (tls.selfSigned). Not list or watch: other Secrets are none of its business.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, update]
{{- if .Values.networkPolicy.enabled }}
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, create, patch]
{{- end }}
# The role label is set on pods, and an annotation when there are new certificates, and a pod is replaced by deleting it.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
# The readiness gate of the pods: whether the leader counts their copies.
- apiGroups: [""]
  resources: [pods/status]
  verbs: [patch]
# Volumes are made larger, and never made or deleted: that is the StatefulSet's business.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
