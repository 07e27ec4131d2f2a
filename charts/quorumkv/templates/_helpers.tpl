{{- define "quorumkv.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Names of objects start with this; short enough for the longest suffix. */}}
{{- define "quorumkv.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- $name := include "quorumkv.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "quorumkv.operatorName" -}}
{{- printf "%s-operator" (include "quorumkv.fullname" .) }}
{{- end }}

{{/* Cluster-scoped objects carry the namespace, so that two releases of one name do not meet. */}}
{{- define "quorumkv.clusterScopedName" -}}
{{- if eq (include "quorumkv.fullname" .) .Release.Namespace }}
{{- include "quorumkv.fullname" . }}
{{- else }}
{{- printf "%s-%s" .Release.Namespace (include "quorumkv.fullname" .) }}
{{- end }}
{{- end }}

{{- define "quorumkv.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "quorumkv.operatorName" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "quorumkv.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}

{{- define "quorumkv.nodeImage" -}}
{{- printf "%s:%s" .Values.nodeImage.repository (default .Chart.AppVersion .Values.nodeImage.tag) }}
{{- end }}

{{/* The namespaces to watch, as a JSON array; empty for all. */}}
{{- define "quorumkv.watchNamespaces" -}}
{{- if and .Values.watchNamespace .Values.watchNamespaces }}
{{- fail "watchNamespace and watchNamespaces are both set: put the one namespace into the list watchNamespaces and leave watchNamespace empty" }}
{{- end }}
{{- $namespaces := .Values.watchNamespaces }}
{{- with .Values.watchNamespace }}{{ $namespaces = list . }}{{ end }}
{{- $namespaces | uniq | sortAlpha | toJson }}
{{- end }}

{{- define "quorumkv.pageName" -}}
{{- printf "%s-page" (include "quorumkv.fullname" .) }}
{{- end }}

{{/* The names of its Service, and what a proxy calls it. */}}
{{- define "quorumkv.pageHosts" -}}
{{- $name := include "quorumkv.pageName" . }}
{{- $inside := printf "%s.%s" $name .Release.Namespace }}
{{- $hosts := list $name $inside (printf "%s.svc" $inside) (printf "%s.svc.cluster.local" $inside) }}
{{- concat $hosts .Values.page.hosts | join "," }}
{{- end }}

{{- define "quorumkv.selectorLabels" -}}
app.kubernetes.io/name: {{ include "quorumkv.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "quorumkv.labels" -}}
{{ include "quorumkv.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: quorumkv
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* What the restricted Pod Security standard asks of a pod and of a container. */}}
{{- define "quorumkv.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "quorumkv.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
