"""What several tests of training use."""


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
