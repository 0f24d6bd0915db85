"""Analysis by Synthesis: a generative model for each class, bounds on its decisions, and attacks on them."""

import fastadv as fa

train_set, test_set = fa.data.load("digits", "train"), fa.data.load("digits", "test")
model = fa.models.ABS.fit(train_set, epochs=20, prior_samples=1000)

x, y = test_set.x[:20], test_set.y[:20]
inferred = model.infer(x)  # loss [20, 10], latents and reconstructions for every class
confidence = model.confidence(x).amax(1).median()
print(
    f"read correctly: {(inferred.loss.argmin(1) == y).float().mean():.0%}, median confidence {confidence:.2f}"
)
print(f"lower bound of the L2 distance to another decision: {model.lower_bound(x, y).mean():.2f} on average")

nearest = fa.attacks.latent_descent(model, x, y, schedule="line_search", steps=51)
print(f"latent descent finds one at {nearest.distance.median():.2f} in the median")
broken = fa.attacks.pgd(model, x, y, fa.L2(0.3), steps=20).success
print(f"PGD within L2 0.3 breaks {broken.float().mean():.0%}")
