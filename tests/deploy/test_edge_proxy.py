"""The text that nginx and Envoy are given; real nginx reads it in tests/e2e/test_edge_proxy.py."""

import pytest
import yaml
from click.testing import CliRunner

from murmurate.cli import main
from murmurate.config import Config, parse
from murmurate.core.errors import ConfigError
from murmurate.deploy.edge_proxy import Edge, Proxy, edge_proxy

EDGE = Edge(names=("api.example",), servers=("10.0.0.5:8080", "[fd00::6]:8081"))


def served(**server: object) -> Config:
    return parse({"server": {"hosts": ["api.example"], **server}})


@pytest.mark.parametrize("kind", list(Proxy))
def test_every_place_of_the_template_is_filled(kind: Proxy) -> None:
    text = edge_proxy(kind, EDGE, served(body_bytes_max=123_456))
    assert "@" not in text.replace('"@type"', "")


def test_nginx_knows_the_servers_and_their_bounds() -> None:
    text = edge_proxy(Proxy.NGINX, EDGE, served(body_bytes_max=123_456))
    assert "server 10.0.0.5:8080 max_fails" in text
    assert "server [fd00::6]:8081 max_fails" in text
    assert "client_max_body_size        123456;" in text
    assert "proxy_read_timeout 75s;" in text  # the model's first token may take 60
    assert text.count("{") == text.count("}")


def test_envoy_gets_yaml_with_both_servers_and_no_metrics() -> None:
    resources = yaml.safe_load(edge_proxy(Proxy.ENVOY, EDGE, served()))["static_resources"]
    [cluster] = resources["clusters"]
    [group] = cluster["load_assignment"]["endpoints"]
    places = [it["endpoint"]["address"]["socket_address"] for it in group["lb_endpoints"]]
    assert [(it["address"], it["port_value"]) for it in places] == [
        ("10.0.0.5", 8080),
        ("fd00::6", 8081),
    ]
    tls, clear = resources["listeners"]
    [manager] = tls["filter_chains"][0]["filters"]
    [host] = manager["typed_config"]["route_config"]["virtual_hosts"]
    assert host["domains"] == ["api.example", "api.example:*"]
    first = host["routes"][0]
    assert (first["match"], first["direct_response"]) == ({"path": "/metrics"}, {"status": 404})
    assert clear["address"]["socket_address"]["port_value"] == 80


@pytest.mark.parametrize("kind", list(Proxy))
def test_plain_http_can_be_left_alone(kind: Proxy) -> None:
    edge = Edge(names=("api.example",), servers=("10.0.0.5:8080",), clear_port=None)
    text = edge_proxy(kind, edge, served())
    assert "308" not in text
    assert "https_redirect" not in text


@pytest.mark.parametrize("server", ["0.0.0.0:8080", "[::]:8080", "10.0.0.5:0", "10.0.0.5"])
def test_a_server_that_nobody_can_connect_to_is_refused(server: str) -> None:
    with pytest.raises(ConfigError, match="expected"):
        edge_proxy(Proxy.NGINX, Edge(names=("api.example",), servers=(server,)), served())


def test_a_name_that_the_servers_would_refuse_is_refused_here() -> None:
    with pytest.raises(ConfigError, match=r'hosts = \["other.example"\]'):
        edge_proxy(Proxy.NGINX, Edge(names=("other.example",), servers=EDGE.servers), served())
    address = Edge(names=("192.0.2.7",), servers=EDGE.servers)  # addresses always may
    assert "server_name 192.0.2.7;" in edge_proxy(Proxy.NGINX, address, served())


@pytest.mark.parametrize("name", ["a b", "a;b", "a'", "", "a{", "$host", "a\nb"])
def test_words_that_would_change_the_text_are_refused(name: str) -> None:
    done = CliRunner().invoke(main, ["deploy", "edge-proxy", "nginx", "--name", name])
    assert done.exit_code == 1
    assert "expected a plain name or path" in done.output
