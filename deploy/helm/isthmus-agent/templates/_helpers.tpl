{{- define "isthmus-agent.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "isthmus-agent.selector" -}}
app.kubernetes.io/name: isthmus-agent
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- /* The agent's labels as name=value,name=value. */ -}}
{{- define "isthmus-agent.labels" -}}
{{- $pairs := list -}}
{{- range $name, $value := .Values.labels -}}
{{- $pairs = append $pairs (printf "%s=%s" $name $value) -}}
{{- end -}}
{{- join "," $pairs -}}
{{- end -}}
