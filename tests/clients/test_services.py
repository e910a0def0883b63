"""The decision record's scenarios with redis-py: one user per service, `default` off."""

import pytest
import redis

SERVICES = {
    "gw": "gw:rate:192.168.1.1",
    "sub": "sub:saga:17",
    "prob": "prob:cache:17",
    "ghw": "ghw:status:17",
    "ai": "ai:cb:openai",
}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_its_own_prefix_and_no_other(services_cluster, service):
    for node in (1, 2, 3):
        client = services_cluster.connect(node, f"{service}-user", f"{service}-password")
        key = SERVICES[service]
        assert client.set(key, "x", ex=60)
        assert client.get(key) == "x"
        for other, foreign in SERVICES.items():
            if other == service:
                continue
            for act in (lambda: client.get(foreign), lambda: client.set(foreign, "stolen")):
                with pytest.raises(redis.exceptions.NoPermissionError) as refused:
                    act()
                assert str(refused.value) == services_cluster.denial(f"{service}-user", foreign)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_no_administrator(services_cluster, service):
    client = services_cluster.connect(1, f"{service}-user", f"{service}-password")
    for command in (["CONFIG", "GET", "*"], ["ACL", "LIST"], ["ACL", "SETUSER", f"{service}-user", "allkeys"], ["SAVE"]):
        with pytest.raises(redis.exceptions.NoPermissionError, match=f"User {service}-user has no permissions to run the"):
            client.execute_command(*command)


def test_default_is_off(services_cluster):
    with pytest.raises(redis.exceptions.AuthenticationError):
        services_cluster.connect(1).ping()
    with pytest.raises(redis.exceptions.AuthenticationError):
        services_cluster.connect(1, "default", "anything").ping()
