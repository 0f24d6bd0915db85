"""The fifteen pitfalls: what goes wrong, why it matters, the check that shows it, the tests that hold it."""

from dataclasses import dataclass

from bench.conduct.checks import Check, answers, company, numbers, places


@dataclass(frozen=True)
class Pitfall:
    """`tests` are written as FILE::NAME under tests/attacks/."""

    title: str
    wrong: str
    matters: str
    check: Check
    tests: tuple[str, ...]
    told: str = ""  # what libraries document about it


CONTRACT, OWN = "contract/test_contract.py::", "contract/test_pitfalls.py::"
PITFALLS = (
    Pitfall(
        "A failure is no success",
        "An attack that finds nothing returns an image it made up, such as its array of zeros, and success "
        "is then computed from that image.",
        "The model misreads a black image; the table of results counts a success at an absurd distance.",
        answers.failure,
        (
            f"{CONTRACT}test_nothing_found",
            "core/test_proof.py::test_a_nan_row_is_no_success_whatever_its_label",
        ),
    ),
    Pitfall(
        "NaN stays within its sample and is no success",
        "One NaN in the gradient of an image spreads over the image, and `argmax` of NaN logits is class 0.",
        "What a broken gradient made unusable counts as broken by the attack.",
        numbers.nan,
        (
            f"{OWN}test_02_a_gradient_that_is_nan_touches_its_own_sample",
            f"{OWN}test_02_logits_that_are_nan_on_the_way_are_no_success",
            f"{CONTRACT}test_one_sample_never_spoils_another",
        ),
        told="ART replaces NaN in the gradients of its PGD by zeros and logs a warning.",
    ),
    Pitfall(
        "Pixels at 0 and 1 move",
        "A change of variables such as `atanh` is infinite at the bounds; pixels that lie there never move.",
        "Four fifths of the pixels of MNIST are exactly 0 or 1: the attack looks weak and the model robust.",
        numbers.saturated,
        (f"{CONTRACT}test_saturated_pixels_move",),
    ),
    Pitfall(
        "The level and the size of logits do not matter",
        "The largest other logit is found by multiplying with a mask, which is wrong for negative logits; "
        "cross-entropy in float32 is zero, with its gradient, where logits are large.",
        "A constant added to all logits, or a confident model, passes for robustness.",
        numbers.margins,
        (
            f"{OWN}test_04_a_shift_of_all_logits_changes_nothing",
            f"{OWN}test_04_confident_logits_do_not_underflow",
        ),
        told="Cross-entropy written plainly has this limit in float32. fastadv keeps its gradient.",
    ),
    Pitfall(
        "Bounds and units are asked for",
        "Normalized images are clamped to [0, 1] without a word.",
        "A radius of zero then changes every image, and robust accuracy falls for no reason.",
        places.bounds,
        (f"{CONTRACT}test_boxes", f"{CONTRACT}test_a_budget_of_zero", f"{CONTRACT}test_bad_input"),
        told="torchattacks and adv-lib document images in [0, 1]; adv-lib's `fmn` refuses others, and "
        "torchattacks has `set_normalization_used`.",
    ),
    Pitfall(
        "The budget holds in every format",
        "A point is projected, then rounded: in bfloat16 it leaves the ball.",
        "Part of the success comes from a larger radius than the one reported.",
        places.budget,
        ("contract/test_formats.py::test_formats",),
        told="An attack that refuses bfloat16 with an error exceeds nothing, and counts as right.",
    ),
    Pitfall(
        "The scale of the gradient does not matter",
        "A gradient is divided by its norm plus a constant, which stops steps where gradients are "
        "small; where the gradient is zero, 0/0 is NaN.",
        "A model with small gradients seems robust.",
        numbers.scale,
        (f"{OWN}test_07_the_scale_of_the_loss_changes_nothing", "test_flat.py::test_a_flat_model_is_held"),
    ),
    Pitfall(
        "A targeted success is the target",
        "A sign is lost in one of the code paths, or any other class counts as success.",
        "Targeted and untargeted figures are compared that are not of one kind.",
        answers.targets,
        (f"{CONTRACT}test_targets", "core/test_proof.py::test_options_crossed"),
    ),
    Pitfall(
        "The point returned is the point evaluated",
        "Points are evaluated before each step and the last one never; or a verdict is another point's.",
        "Success that was found is lost, or reported where a fresh pass finds none.",
        answers.last_step,
        (f"{OWN}test_09_the_last_iterate_counts", f"{OWN}test_09_a_fresh_forward_agrees"),
    ),
    Pitfall(
        "Restarts keep the best of each sample",
        "The better start is chosen for a batch, or solved samples are attacked again.",
        "Robust accuracy comes out too high, or restarts cost as many runs.",
        company.restarts,
        (f"{CONTRACT}test_more_is_never_worse", f"{OWN}test_10_solved_samples_are_not_attacked_again"),
    ),
    Pitfall(
        "The caller's model and process stay as they were",
        "Attack gradients pile up in parameters, BatchNorm learns from adversarial images, modes are set for "
        "the model as a whole, a fixed seed resets the global random state.",
        "The training around the attack goes wrong and gives no error.",
        company.state,
        (
            f"{CONTRACT}test_the_result_is_a_fact_and_the_model_is_left_as_it_was",
            f"{OWN}test_11_nothing_is_left_after_an_exception_of_the_model",
            f"{OWN}test_11_inside_inference_mode",
        ),
        told="foolbox warns where a model is in training mode; adv-lib and cleverhans leave `eval()` to the "
        "caller. BatchNorm stays as it is if the model was put in eval mode before.",
    ),
    Pitfall(
        "A sample's result is its own",
        "A batch shares a stopping rule, a step or a norm.",
        "Results depend on the batch size and on which images stand beside each other.",
        company.batch,
        (f"{CONTRACT}test_a_sample_stands_alone", f"{CONTRACT}test_ranks"),
    ),
    Pitfall(
        "Any number of classes will do",
        "A loss that ranks classes asks for the fourth largest logit, and a default names ten classes.",
        "Binary models cannot be attacked, or are with another loss than reported.",
        company.classes,
        (f"{CONTRACT}test_class_counts", f"{OWN}test_13_losses_that_rank_classes_may_run_out_of_them"),
    ),
    Pitfall(
        "Random starts are uniform in the ball",
        "A random direction is scaled by a uniform length, which crowds starts around the image; or starts "
        "lie on the surface alone.",
        "Restarts explore less than they seem to, and results differ from the paper's.",
        places.starts,
        ("test_keys.py::test_every_restart_starts_elsewhere",),
    ),
    Pitfall(
        "Misread images stay, and export keeps the verdict",
        "An image that the model misreads already is attacked all the same; pixels are cut to 8 bits where "
        "they should be rounded.",
        "Median distances count what needed no attack, and saved adversarial images fool nobody.",
        answers.misread,
        (f"{CONTRACT}test_all_wrong_and_none", f"{OWN}test_15_eight_bits_keep_the_verdict"),
    ),
)
