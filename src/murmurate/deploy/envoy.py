"""Envoy before the servers, as a template: `@name@` stands for a value."""

_TYPES = "type.googleapis.com/envoy.extensions"
_TLS = f"{_TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"
_MANAGER = f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = f"{_TYPES}.filters.http.router.v3.Router"
_HTTP = f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions"

ENVOY = f"""\
# Envoy 1.28 or newer: TLS and HTTP/2 before murmurate. envoy -c THIS_FILE
static_resources:
  listeners:
    - name: tls
      address: {{ socket_address: {{ address: 0.0.0.0, port_value: @port@ }} }}
      per_connection_buffer_limit_bytes: 65536
      filter_chains:
        - transport_socket:
            name: envoy.transport_sockets.tls
            typed_config:
              "@type": {_TLS}
              common_tls_context:
                alpn_protocols: [h2, http/1.1]
                tls_params: {{ tls_minimum_protocol_version: TLSv1_2 }}
                tls_certificates:
                  - certificate_chain: {{ filename: "@certificate@" }}
                    private_key: {{ filename: "@private_key@" }}
          filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": {_MANAGER}
                stat_prefix: edge
                use_remote_address: true
                normalize_path: true
                merge_slashes: true
                path_with_escaped_slashes_action: REJECT_REQUEST
                # The servers' own bounds, so that whoever crosses one hears of it here.
                request_headers_timeout: @head_s@s
                request_timeout: @body_s@s  # of the request alone, not of its answer
                stream_idle_timeout: @silence_s@s
                max_request_headers_kb: @head_kb@
                common_http_protocol_options:
                  idle_timeout: @keep_alive_s@s
                  max_headers_count: @headers_max@
                  headers_with_underscores_action: REJECT_REQUEST
                http2_protocol_options: {{ max_concurrent_streams: 100 }}
                upgrade_configs: [{{ upgrade_type: websocket }}]
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config: {{ "@type": {_ROUTER} }}
                route_config:
                  virtual_hosts:
                    - name: murmurate
                      domains: [@domains@]
                      routes:
                        # It is open to the servers' own machine.
                        - match: {{ path: /metrics }}
                          direct_response: {{ status: 404 }}
                        - match: {{ prefix: / }}
                          route:
                            cluster: murmurate
                            timeout: 0s  # an answer may take long; silence is bounded above
                            retry_policy:  # only what no server has had
                              retry_on: connect-failure,refused-stream
                              num_retries: 2
@clear_listener@\
  clusters:
    - name: murmurate
      type: STRICT_DNS
      connect_timeout: 5s
      lb_policy: LEAST_REQUEST
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": {_HTTP}
          common_http_protocol_options: {{ idle_timeout: 30s }}  # the servers wait longer
          explicit_http_config: {{ http_protocol_options: {{}} }}
      load_assignment:
        cluster_name: murmurate
        endpoints:
          - lb_endpoints:
@endpoints@\
      circuit_breakers:
        thresholds:
          - max_connections: @connections_max@
            max_requests: @connections_max@
            max_pending_requests: @connections_max@
      health_checks:
        - timeout: 1s
          interval: 2s
          unhealthy_threshold: 2
          healthy_threshold: 1
          http_health_check: {{ path: /readyz, host: localhost }}
"""

CLEAR_LISTENER = f"""\
    - name: clear
      address: {{ socket_address: {{ address: 0.0.0.0, port_value: @clear_port@ }} }}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": {_MANAGER}
                stat_prefix: clear
                http_filters:
                  - name: envoy.filters.http.router
                    typed_config: {{ "@type": {_ROUTER} }}
                route_config:
                  virtual_hosts:
                    - name: clear
                      domains: ["*"]
                      routes:
                        - match: {{ prefix: / }}
                          redirect: {{ https_redirect: true, @port_redirect@\
response_code: PERMANENT_REDIRECT }}
"""

ENDPOINT = """\
            - endpoint:
                address: { socket_address: { address: "@host@", port_value: @server_port@ } }
"""
