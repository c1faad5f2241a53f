"""What several tests of training use."""

from types import SimpleNamespace

from sklearn_cbir._batches import make_batches
from sklearn_cbir._devices import Seeds
from sklearn_cbir._plan import N_NEGATIVES
from sklearn_cbir.losses import sampling_of


def plan_batches(estimator, source, y, rows, loss, seed, *, training):
    """Return the batches of a training of `rows` with the parameters of an estimator."""
    sampling = estimator.sampling
    plan = SimpleNamespace(
        sampling=sampling_of(loss) if sampling == "auto" else sampling,
        batch_size=estimator.batch_size,
        n_per_class=estimator.n_per_class,
        pool_size=estimator.pool_size,
        n_negatives=getattr(loss, "n_negatives", N_NEGATIVES),
        mixup=estimator.mixup,
        num_workers=0,
        weights=None,
        seeds=Seeds.of(seed),
    )
    return make_batches(plan, source, y, rows, training=training)


class Interrupt:
    """A callback that presses Ctrl-C after so many epochs."""

    def __init__(self, after):
        self.after = after

    def setup(self, estimator, context):
        self.n = 0

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        self.n += context.task_name == "epoch"
        if self.n == self.after:
            raise KeyboardInterrupt

    def teardown(self, estimator, context):
        pass
