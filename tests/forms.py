"""One step in each of the three forms of SAM."""


def by_passes(sam, loss):
    sam.optimizer.zero_grad()
    for _ in sam.passes():
        loss().backward()
    sam.optimizer.step()


def by_closure(sam, loss):
    def closure():
        sam.optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    sam.step(closure)


def by_block(sam, loss):
    sam.optimizer.zero_grad()
    loss().backward()
    with sam.perturbed():
        loss().backward()
    sam.optimizer.step()


FORMS = {"passes": by_passes, "closure": by_closure, "block": by_block}
