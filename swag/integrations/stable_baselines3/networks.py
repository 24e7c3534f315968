"""Which of a policy's parameters are averaged: networks by name, their targets never."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from swag.errors import InputError

# stable-baselines3's names for networks that follow others by Polyak averaging: actor_target, q_net_target.
_TARGET = "_target"


def network_names(policy: nn.Module) -> tuple[str, ...]:
    """What `networks=` may name: the policy's own modules and parameters, without target networks."""
    modules = [name for name, module in policy.named_children() if any(True for _ in module.parameters())]
    own = [name for name, _ in policy.named_parameters(recurse=False)]
    return tuple(name for name in (*modules, *own) if not name.endswith(_TARGET))


def selected(
    policy: nn.Module, networks: Sequence[str] | None, algorithm: str
) -> Callable[[str, nn.Parameter], bool]:
    """A predicate on (name, parameter): trainable, in one of the networks, in no target network.

    Args:
        policy: `model.policy`.
        networks: names among `network_names(policy)`; None for all of them.
        algorithm: its name, for the messages.

    Raises:
        InputError: a name that the policy does not have, a target network, or nothing trainable in it.
    """
    present = network_names(policy)
    for name in present if networks is None else networks:
        if name.endswith(_TARGET):
            raise InputError(
                f"networks: got {name!r}, a target network: it follows its network by itself and is not "
                f"trained; pass {name.removesuffix(_TARGET)!r}"
            )
        if name not in present:
            raise InputError(
                f"networks: got {name!r}, which the policy of {algorithm} does not have; it has "
                f"{', '.join(map(repr, present))}: name some of these, or leave networks out for all"
            )
    # By identity: a features extractor that two networks share comes first under the other one's name.
    wanted: set[int] = set()
    for name in present if networks is None else networks:
        part = getattr(policy, name)
        own = [part] if isinstance(part, nn.Parameter) else list(part.parameters())
        trainable = {id(parameter) for parameter in own if parameter.requires_grad}
        if networks is not None and not trainable:
            raise InputError(f"networks: {name!r} has no parameter that requires a gradient; leave it out")
        wanted |= trainable
    return lambda name, parameter: id(parameter) in wanted
