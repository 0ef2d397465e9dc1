{{/* Names, labels and what pods have in common. */}}

{{- define "zeromask.fullname" -}}
{{- $name := ternary .Release.Name (printf "%s-zeromask" .Release.Name) (contains "zeromask" .Release.Name) -}}
{{- trunc 45 $name | trimSuffix "-" -}}
{{- end }}

{{/* Of a part: (list . "worker"). A selector never changes, so it has nothing that an upgrade changes. */}}
{{- define "zeromask.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: zeromask
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "zeromask.labels" -}}
{{- $root := index . 0 -}}
{{ include "zeromask.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Of an image: (list . "zeromask-backend" "" ). The last is what its tag ends in. */}}
{{- define "zeromask.image" -}}
{{- $root := index . 0 -}}
{{- $remedy := "image.registry is not set: name the registry you pushed the images to, such as registry.example.com/team (docs/guide/deployment.md, On Kubernetes)" -}}
{{- $registry := required $remedy $root.Values.image.registry | trimSuffix "/" -}}
{{ $registry }}/{{ index . 1 }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}{{ index . 2 }}
{{- end }}

{{/* The user and group of an image, which has no other rights. */}}
{{- define "zeromask.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ . }}
runAsGroup: {{ . }}
fsGroup: {{ . }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "zeromask.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Where the pods of a part run: its values. */}}
{{- define "zeromask.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What every pod of ours has. */}}
{{- define "zeromask.podStart" -}}
serviceAccountName: {{ include "zeromask.fullname" . }}
automountServiceAccountToken: false
# A Service named zeromask would be told to pods as ZEROMASK_PORT, which is a setting of ours.
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext: {{- include "zeromask.podSecurity" 10001 | nindent 2 }}
{{- end }}

{{/* The names that lead to the backend: it answers to them, and workers give webhooks that lead there the secret. */}}
{{- define "zeromask.backendHosts" -}}
{{- $name := printf "%s-backend" (include "zeromask.fullname" .) -}}
{{- $space := printf "%s.%s" $name .Release.Namespace -}}
{{- $inside := list $name $space (printf "%s.svc" $space) (printf "%s.svc.cluster.local" $space) -}}
{{- concat $inside .Values.backend.allowedHosts (compact (list .Values.ingress.host)) | join "," -}}
{{- end }}

{{/* Settings of all parts, but for those that the chart sets by what it makes. */}}
{{- define "zeromask.sharedEnv" -}}
- {name: MODEL, value: {{ .Values.model | quote }}}
- {name: REDIS_URL_FILE, value: /secrets/redis_url}
- {name: ZEROMASK_WEBHOOK_SECRET_FILE, value: /secrets/zeromask_webhook_secret}
- {name: ZEROMASK_STATE_DIR, value: /state}
- {name: ZEROMASK_ALLOWED_HOSTS, value: {{ include "zeromask.backendHosts" . | quote }}}
{{- if .Values.caBundle.configMap }}
- {name: ZEROMASK_CA_BUNDLE, value: /etc/zeromask/{{ .Values.caBundle.key }}}
{{- end }}
{{- range $name, $value := .Values.settings }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}

{{/* Only the keys that a pod needs: (list . "redis_url" ...). */}}
{{- define "zeromask.secretVolume" -}}
{{- $root := index . 0 -}}
- name: secrets
  secret:
    secretName: {{ $root.Values.secretName }}
    defaultMode: 0440
    items:
      {{- range rest . }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
{{- end }}

{{- define "zeromask.caMount" -}}
{{- if .Values.caBundle.configMap }}
- {name: authorities, mountPath: /etc/zeromask, readOnly: true}
{{- end }}
{{- end }}

{{- define "zeromask.caVolume" -}}
{{- with .Values.caBundle }}
{{- if .configMap }}
- name: authorities
  configMap:
    name: {{ .configMap }}
    items:
      - {key: {{ .key }}, path: {{ .key }}}
{{- end }}
{{- end }}
{{- end }}

{{- define "zeromask.versionsClaim" -}}
{{- .Values.versions.persistence.existingClaim | default (printf "%s-versions" (include "zeromask.fullname" .)) -}}
{{- end }}

{{- define "zeromask.weightsClaim" -}}
{{- .Values.weights.persistence.existingClaim | default (printf "%s-weights" (include "zeromask.fullname" .)) -}}
{{- end }}

{{/* A volume that outlives its pods: (list . "versions" its values). */}}
{{- define "zeromask.claim" -}}
{{- $root := index . 0 -}}
{{- $values := index . 2 -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ include "zeromask.fullname" $root }}-{{ index . 1 }}
  labels: {{- include "zeromask.labels" (list $root (index . 1)) | nindent 4 }}
  annotations:
    helm.sh/resource-policy: keep
spec:
  accessModes: {{- toYaml ($values.accessModes | default (list "ReadWriteOnce")) | nindent 4 }}
  {{- with $values.storageClass }}
  storageClassName: {{ . }}
  {{- end }}
  resources:
    requests: {storage: {{ $values.size }}}
{{- end }}
