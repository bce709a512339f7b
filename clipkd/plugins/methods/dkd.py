"""Decoupled KD: the teacher's certainty of the label, and what it says about the other classes, weighted apart."""

from clipkd.plugins.methods import Method

TARGET, OTHERS = 1.0, 8.0
"""Alpha and beta, as published for CIFAR-100."""


class DecoupledKD(Method):
    """CE(s, y) + w * T^2 (alpha KL(b_t || b_s) + beta KL(q_t || q_s)): B. Zhao et al.,
    https://arxiv.org/abs/2203.08679, eq. 7. With p = softmax(. / T), b = (p_y, 1 - p_y) and q = p without y, scaled to
    a sum of 1; of mixed images y is the class with the largest share."""

    def loss(self, student, outputs, labels, signal, recipe):
        import torch
        from torch.nn.functional import log_softmax

        from clipkd.plugins.methods import _losses as losses

        scores, temperature = losses.scores(outputs.logits, recipe), recipe.temperature
        # Each row's class first, then the others: equal shapes whatever the labels, as a CUDA graph needs.
        numbers = losses.class_numbers(labels)
        first, is_known = numbers.clamp(min=0)[:, None], (numbers >= 0)[:, None]
        order = (first + torch.arange(scores.shape[1], device=labels.device)) % scores.shape[1]
        ours, theirs = (log_softmax(one.gather(1, order) / temperature, dim=1) for one in (scores, signal))
        # Mixed with images without a label, some are more than half unknown: no distance, and not counted.
        theirs = torch.where(is_known, theirs, ours)
        binary = [torch.stack([one[:, 0], one[:, 1:].logsumexp(dim=1)], dim=1) for one in (ours, theirs)]
        others = [log_softmax(one[:, 1:], dim=1) for one in (ours, theirs)]
        target, rest = (losses.divergence(s, t) for s, t in (binary, others))
        target, rest = (one * losses.over_known(numbers) for one in (target, rest))
        terms = {"target": TARGET * temperature**2 * target, "others": OTHERS * temperature**2 * rest}
        return losses.total(outputs, labels, recipe, **terms) | losses.accuracy(signal, labels)


SPEC = DecoupledKD(name="DKD", title="Decoupled KD", signal="scores", compared_with=("vanilla",), needs_labels=True)
