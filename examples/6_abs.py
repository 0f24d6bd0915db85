"""Analysis by Synthesis: the class whose generative model explains a digit best, the radius within which that cannot change, and attacks on it."""

import fastadv as fa

train_set, test_set = fa.data.load("digits", "train"), fa.data.load("digits", "test")
model = fa.models.ABS.fit(train_set, epochs=20, prior_samples=1000)

x, y = test_set.x[:100], test_set.y[:100]
found = model.infer(x)  # loss [100, 10], latents and reconstructions for every class
print(
    f"read right: {(found.loss.argmin(1) == y).float().mean():.0%}, median confidence {model.confidence(x).amax(1).median():.2f}"
)
print(f"lower bound of the L2 distance to another decision: {model.lower_bound(x, y).mean():.2f} on average")

nearest = fa.attacks.latent_descent(model, x, y, schedule="line_search", steps=51)
print(f"latent descent finds one at {nearest.distance.median():.2f} in the median")
print(
    f"PGD within L2 0.3 breaks {fa.attacks.pgd(model, x, y, fa.L2(0.3), steps=20).success.float().mean():.0%}"
)
