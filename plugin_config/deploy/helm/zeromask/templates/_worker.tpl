{{/*
A Deployment of workers of one kind: (dict "root" . "part" "worker" "values" .Values.worker "queue" "predict" ...).
"replicas" is left out where something else sets it; "strategy" says how they are replaced.
*/}}
{{- define "zeromask.workers" -}}
{{- $root := .root -}}
{{- $values := .values -}}
{{- $queue := ternary (list) (list "--queue" .queue) (eq .queue "predict") -}}
{{- $remedy := "labelStudio.url is not set: name where workers reach Label Studio, such as http://label-studio.label-studio.svc:8080" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "zeromask.fullname" $root }}-{{ .part }}
  labels: {{- include "zeromask.labels" (list $root .part) | nindent 4 }}
spec:
  {{- if hasKey . "replicas" }}
  replicas: {{ .replicas }}
  {{- end }}
  strategy: {{- toYaml .strategy | nindent 4 }}
  selector:
    matchLabels: {{- include "zeromask.selector" (list $root .part) | nindent 6 }}
  template:
    metadata:
      labels: {{- include "zeromask.labels" (list $root .part) | nindent 8 }}
    spec:
      {{- include "zeromask.podStart" $root | nindent 6 }}
      {{- with $values.runtimeClassName }}
      runtimeClassName: {{ . }}
      {{- end }}
      {{- include "zeromask.placement" $values | nindent 6 }}
      terminationGracePeriodSeconds: {{ $values.stopSeconds }}
      containers:
        - name: {{ .part }}
          image: {{ include "zeromask.image" (list $root $root.Values.image.worker (ternary "-cuda" "-cpu" $values.gpu.enabled)) }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          command: {{ concat (list "zeromask" "worker") $queue | toJson }}
          env:
            {{- include "zeromask.sharedEnv" $root | nindent 12 }}
            - {name: LABEL_STUDIO_URL, value: {{ required $remedy $root.Values.labelStudio.url | quote }}}
            - {name: LABEL_STUDIO_API_KEY_FILE, value: /secrets/label_studio_api_key}
            {{- with $root.Values.labelStudio.publicUrl }}
            - {name: LABEL_STUDIO_PUBLIC_URL, value: {{ . | quote }}}
            {{- end }}
            - {name: ZEROMASK_DEVICE, value: {{ ternary "cuda" "cpu" $values.gpu.enabled }}}
            - {name: ZEROMASK_VERSIONS, value: {{ $root.Values.versions.url | default "/versions" | quote }}}
            - {name: HF_HOME, value: /weights}
            {{- if and (dig "limits" "cpu" "" $values.resources) (not (hasKey $root.Values.settings "ZEROMASK_THREADS")) }}
            # Without it torch would take a thread for each core of the node.
            - name: ZEROMASK_THREADS
              valueFrom:
                resourceFieldRef: {resource: limits.cpu}
            {{- end }}
            {{- with $root.Values.versions }}
            {{- if and .url .s3.secretName }}
            {{- $secret := .s3.secretName }}
            {{- range list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
            - name: {{ . }}
              valueFrom:
                secretKeyRef: {name: {{ $secret }}, key: {{ . }}}
            {{- end }}
            {{- end }}
            {{- with .s3.endpoint }}
            - {name: AWS_ENDPOINT_URL, value: {{ . | quote }}}
            {{- end }}
            {{- with .s3.region }}
            - {name: AWS_DEFAULT_REGION, value: {{ . | quote }}}
            {{- end }}
            {{- end }}
            {{- with $root.Values.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          # Alive: it gives signs of life in Redis. The first start fetches the model.
          startupProbe:
            exec: {command: {{ concat (list "zeromask" "alive") $queue | toJson }}}
            periodSeconds: 15
            timeoutSeconds: 15
            failureThreshold: {{ ceil (divf $values.startupSeconds 15) }}
          readinessProbe:
            exec: {command: {{ concat (list "zeromask" "alive") $queue | toJson }}}
            periodSeconds: 30
            timeoutSeconds: 15
            failureThreshold: 2
          # All workers at once would load their model again for nothing if a Redis that is away counted here.
          livenessProbe:
            exec: {command: {{ concat (list "zeromask" "alive") $queue (list "--redis-may-be-away") | toJson }}}
            periodSeconds: 60
            timeoutSeconds: 15
            failureThreshold: 5
          resources:
            {{- $gpu := ternary (dict "limits" (dict $values.gpu.resource 1)) dict $values.gpu.enabled }}
            {{- toYaml (mergeOverwrite (deepCopy $values.resources) $gpu) | nindent 12 }}
          securityContext: {{- include "zeromask.containerSecurity" . | nindent 12 }}
          volumeMounts:
            # Not in /run/secrets, where some clusters mount the tokens of service accounts.
            - {name: secrets, mountPath: /secrets, readOnly: true}
            - {name: state, mountPath: /state}
            - {name: tmp, mountPath: /tmp}
            - {name: weights, mountPath: /weights}
            {{- if not $root.Values.versions.url }}
            - {name: versions, mountPath: /versions}
            {{- end }}
            {{- include "zeromask.caMount" $root | nindent 12 }}
      volumes:
        {{- include "zeromask.secretVolume" (list $root "redis_url" "label_studio_api_key" "zeromask_webhook_secret") | nindent 8 }}
        - {name: state, emptyDir: {sizeLimit: {{ $values.stateSize }}}}
        - {name: tmp, emptyDir: {}}
        {{- if $root.Values.weights.persistence.enabled }}
        - {name: weights, persistentVolumeClaim: {claimName: {{ include "zeromask.weightsClaim" $root }}}}
        {{- else }}
        - {name: weights, emptyDir: {sizeLimit: {{ $root.Values.weights.emptyDirSize }}}}
        {{- end }}
        {{- if not $root.Values.versions.url }}
        - {name: versions, persistentVolumeClaim: {claimName: {{ include "zeromask.versionsClaim" $root }}}}
        {{- end }}
        {{- include "zeromask.caVolume" $root | nindent 8 }}
{{- end }}
