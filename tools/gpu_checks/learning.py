"Does it learn? The demo's task in each precision, to its accuracy."
from . import check, need_gpu
from .runs import tiny_trainer

SETTINGS = dict(max_steps=72, per_device_train_batch_size=64, max_completion_length=64, num_generations=8,
                learning_rate=3e-4, lr_scheduler_type='cosine', adam_beta2=.99, reward_weights=[1, .2], seed=0)

def learned(place, **precision):
    "Accuracy on held-out sums before and after"
    from grpo_lit.run.evaluate import evaluate
    from grpo_lit.tasks import addition_task
    small = dict(max_steps=2, per_device_train_batch_size=16) if place.small else {}
    trainer, task = tiny_trainer(place, **SETTINGS | small | precision), addition_task(seed=0)
    test = list(task.test)[:8 if place.small else 100]
    def accuracy(): return evaluate(trainer.model, trainer.tokenizer, test, num_generations=4, max_completion_length=64, seed=0).accuracy
    before = accuracy()
    trainer.train()
    figures = dict(before=before, after=accuracy(), seconds_a_step=trainer.history[-1]['step_time'])
    assert place.small or figures['after'] > .85, f'accuracy after training is {figures["after"]:.2f}'
    return figures

@check('learning: bf16', order=50, seconds=30)
def bf16(place): return learned(place, bf16=True)

@check('learning: fp16', order=51, seconds=30)
def fp16(place):
    need_gpu(place)
    return learned(place, fp16=True)

@check('learning: float32', order=52, seconds=30)
def float32(place): return learned(place, bf16=False)
