{{- define "smtp2cf.name" -}}
{{ .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "smtp2cf.fullname" -}}
{{- $name := include "smtp2cf.name" . -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains $name .Release.Name -}}
{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "smtp2cf.selector" -}}
app.kubernetes.io/name: {{ include "smtp2cf.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "smtp2cf.labels" -}}
{{ include "smtp2cf.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: {{ .Values.mode }}
{{- end }}

{{/* A setting's value as an environment variable has it; large numbers without an exponent. */}}
{{- define "smtp2cf.text" -}}
{{- if kindIs "bool" . }}{{ ternary "yes" "no" . }}
{{- else if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}
{{- else }}{{ . }}{{ end -}}
{{- end }}

{{- define "smtp2cf.secret" -}}
{{ .Values.secret.name | default (include "smtp2cf.fullname" .) }}
{{- end }}

{{/* Where mail waits; refuses what would lose it. */}}
{{- define "smtp2cf.spool" -}}
{{- $spool := .Values.spool | default (ternary "none" "postgres" (eq .Values.mode "sidecar")) -}}
{{- $replicas := ternary .Values.sidecar.replicas .Values.replicas (eq .Values.mode "sidecar") -}}
{{- if eq $spool "volume" -}}
{{- if not .Values.volumeClaim }}{{ fail "spool: volume needs volumeClaim, the name of a PersistentVolumeClaim" }}{{ end -}}
{{- if gt (int $replicas) 1 }}{{ fail "spool: volume is for one replica: set replicas to 1, or spool to postgres" }}{{ end -}}
{{- end -}}
{{ $spool }}
{{- end }}

{{- define "smtp2cf.podSpec" -}}
securityContext:
  # Reads the Secret's files, and owns the spool's volume.
  fsGroup: 10025
  fsGroupChangePolicy: OnRootMismatch
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "smtp2cf.volumes" -}}
- name: smtp2cf-settings
  secret:
    secretName: {{ include "smtp2cf.secret" . }}
    defaultMode: 0440
- name: smtp2cf-state
  {{- if eq (include "smtp2cf.spool" .) "volume" }}
  persistentVolumeClaim:
    claimName: {{ .Values.volumeClaim }}
  {{- else }}
  # Temporary files: no mail waits here.
  emptyDir: {}
  {{- end }}
{{- end }}

{{/* The bridge's container, but for its name. */}}
{{- define "smtp2cf.container" -}}
image: "{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}"
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [serve]
env:
  - name: SMTP2CF_API_TOKEN_FILE
    value: /etc/smtp2cf/token
  {{- $spool := include "smtp2cf.spool" . }}
  {{- if eq $spool "postgres" }}
  - name: SMTP2CF_SPOOL_URL_FILE
    value: /etc/smtp2cf/spool-url
  {{- else if eq $spool "none" }}
  - name: SMTP2CF_SPOOL_URL
    value: none
  {{- end }}
  {{- if eq .Values.mode "sidecar" }}
  # This pod's containers share its loopback; nobody else gets in.
  - name: SMTP2CF_SMTP_LISTEN
    value: 127.0.0.1:2525
  {{- else }}
  - name: SMTP2CF_ALLOW_NETWORKS
    value: {{ .Values.allowNetworks | quote }}
  {{- end }}
  - name: SMTP2CF_DRAIN_TIMEOUT
    value: {{ printf "%ds" (int .Values.drainTimeoutSeconds) }}
  - name: SMTP2CF_MAX_MESSAGE_MEMORY
    value: {{ .Values.maxMessageMemory | quote }}
  {{- range $name, $value := .Values.settings }}
  - name: SMTP2CF_{{ $name | upper }}
    value: {{ include "smtp2cf.text" $value | quote }}
  {{- end }}
ports:
  {{- if ne .Values.mode "sidecar" }}
  - name: smtp
    containerPort: 2525
  {{- end }}
  - name: smtp2cf-admin
    containerPort: 8025
# Not /readyz: a restart would bring neither Cloudflare nor a database back.
startupProbe:
  httpGet: {path: /livez, port: smtp2cf-admin}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: smtp2cf-admin}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
resources: {{- toYaml .Values.resources | nindent 2 }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10025
  runAsGroup: 10025
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
volumeMounts:
  - name: smtp2cf-settings
    mountPath: /etc/smtp2cf
    readOnly: true
  - name: smtp2cf-state
    mountPath: /var/lib/smtp2cf
{{- end }}
