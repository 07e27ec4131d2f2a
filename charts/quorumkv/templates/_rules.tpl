{{/* What the operator's code does, and no more; beside each rule, what for. */}}
{{- define "quorumkv.operatorRules" -}}
# The spec is read; the record of epochs, leaders and members is written to the status alone.
- apiGroups: [quorumkv.io]
  resources: [kvclusters]
  verbs: [get, list, watch]
- apiGroups: [quorumkv.io]
  resources: [kvclusters/status]
  verbs: [get, patch, update]
# Owner references that hold back a deletion ask for this where the cluster enforces it.
- apiGroups: [quorumkv.io]
  resources: [kvclusters/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, secrets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# The role label is set on pods, and a pod is replaced by deleting it.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
