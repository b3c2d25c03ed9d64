"""The words of the page that `choosing_rho.py` writes."""

METHOD = """\
Every task is trained with SAM, p = 1, at {values} values of ρ from {least:.2g} to {most:.2g},
{steps} steps, {seeds} seeds, each with its own split, wrong labels, start and order of minibatches.
Between two values the accuracy is taken on a line over log ρ; beyond them, at the end. *Regret* is
the test accuracy at the ρ that the task's own validation picks from this grid, minus that at the
recommended ρ, in points. A network is measured once, after {primary:.0%} of its steps in plain SGD;
each seed is then trained from its start with the ρ of its own measurement. A constant is the one
that has the largest mean validation accuracy on the other tasks (steps of .05 decade): for a task
of the claim, all its other tasks; for a fresh task, all of the claim's. The task itself has no part
in it.

All the rules but the last three, and the time at which networks are measured, were fixed before the
first look. Then *{later}* was made, on the claim's tasks; λ̂ was taken at ρ = .05 instead of .001,
where the kinks of the ReLU are most of it; and the fresh tasks were chosen before any of them was
trained. The two comparisons that head this page were chosen, for *{later}*, before a result on them
was seen. What *{later}* is worth, the fresh tasks tell. Fifteen other forms of *{later}* (share of
the loss, time, ρ before the measurement), thirteen of *break* and the direction of the mean SAM
gradient were looked at on the claim's tasks and are not listed.

*{shipped}* and *{cautious}* are the code of `thalweg.diagnose` itself, called with each network,
the minibatches and a loss as a user has them: its own scan along ε (four radii a decade, up to
‖w‖), the loss before training on a copy that begins anew, with other numbers than the network's own
start, and its cap. *{shipped}* is *{later}* as it is shipped, with the constant that fits the
claim's tasks, {level:g}, whatever another would do on the fresh ones. *{cautious}* is what is
recommended where the loss before training is not known: the middle of the range from where the rise
exceeds a hundredth of the noise of the loss to where that of a minibatch is off the quadratic by
{bent:.0%}. Nothing in it is fitted. Both were added when both sets of tasks had been seen; so were
a tenth of the noise, and a share of a quarter and of .35 instead of {bent:.0%}, which are not
listed.

± is half of a 95 % t interval over tasks. Brackets are a 95 % bootstrap interval over seeds and
tasks (percentiles, {draws} draws); on the claim's tasks constants and picks are made anew for every
draw of seeds, on the fresh ones picks alone. p is of the t test over tasks, after Holm for the
number of rules compared. *Clearly* means that p is below .05 and both intervals exclude 0.

What is measured: ‖w‖ of all parameters, D of them. ‖g‖ and the rise are means over {batches}
minibatches, each with its own ε = ρ g/‖g‖. h is the gradient at w + ε on the same minibatch; the
radius where ⟨h, g⟩ turns negative is the median over them. λ_max is of about all the training data,
λ̂ along ε at ρ = .05. *edge*: η(λ + ρλ²/‖g‖) = 2(1 + μ), η the step size, μ the momentum.
*trusted*: from where the rise exceeds the standard deviation of the loss between minibatches to
where it leaves ρ‖g‖ + ½ρ²λ̂ by half; the geometric mean of the ends. *break*: ρ grows from .001 to
10 over the first {ramp:.0%} of a training; where the loss (a mean of 10 looks) is smallest.
*{later}*: the radius at which the mean of L(w + ε) is what L was before training: a ρ beyond it
makes the trained network look worse than an untrained one.
"""


LIMITS = """\
## What this does not show

All tasks but two are the same 1,797 images of digits. The networks are small, without normalization
layers, trained for {steps} steps of SGD at a constant step size; the measured ones had learned
something already. What ρ is best for is accuracy against wrong labels, for the most part: where
there are none the curve is flat, and no rule here knows that. On the text SAM gains next to
nothing, and the larger a recommended ρ, the more it costs. Nothing tells whether a constant found
here holds for a large model. The recommendation is where to begin a search, not its end.
"""
