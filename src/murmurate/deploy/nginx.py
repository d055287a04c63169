"""nginx before the servers, as a template: `@name@` stands for a value."""

NGINX = """\
# nginx 1.18 or newer: TLS and HTTP/2 before murmurate. A file of conf.d: it stands inside http { }.

upstream murmurate {
@servers@
    keepalive 64;  # for each worker process
}

map $http_upgrade $murmurate_connection {
    default upgrade;
    ""      "";
}
@clear_server@
server {
    listen @port@ ssl http2;
    server_name @names@;

    ssl_certificate     @certificate@;
    ssl_certificate_key @private_key@;
    ssl_protocols       TLSv1.2 TLSv1.3;
    ssl_session_cache   shared:murmurate:10m;

    # The servers' own bounds, so that whoever crosses one hears of it here.
    client_max_body_size        @body_bytes_max@;
    client_header_timeout       @head_s@s;
    client_body_timeout         @body_s@s;
    send_timeout                @unread_s@s;
    keepalive_timeout           @keep_alive_s@s;
    large_client_header_buffers @head_buffers@ @url_bytes_max@;

    location = /metrics { return 404; }  # it is open to the servers' own machine

    location / {
        proxy_pass http://murmurate;
        proxy_http_version 1.1;
        proxy_set_header Host $host;
        proxy_set_header Connection $murmurate_connection;
        proxy_set_header Upgrade $http_upgrade;

        proxy_buffering off;                # a stream passes as it comes
        proxy_ignore_client_abort off;      # a client that leaves ends its work
        proxy_next_upstream error timeout;  # a POST only if no server has had it
        proxy_connect_timeout 5s;
        proxy_send_timeout @body_s@s;
        proxy_read_timeout @silence_s@s;
    }
}
"""

CLEAR_SERVER = """
server {
    listen @clear_port@;
    server_name @names@;
    return 308 https://$host@shown_port@$request_uri;
}
"""
