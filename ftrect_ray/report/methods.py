"""The paragraph for the reader's own paper, written from the run as it was, and whom it cites."""

from __future__ import annotations

from ftrect_ray.report import sections, words
from ftrect_ray.report.inputs import ReportInputs

REFERENCES: dict[str, tuple[str, str]] = {
    "ftr": (
        "Wang, L., Ye, Z., & Zhao, J. (2025). Efficient inference using large language models with limited human "
        "data: Fine-tuning then rectification. arXiv:2511.19486.",
        "https://arxiv.org/abs/2511.19486",
    ),
    "ppi": (
        "Angelopoulos, A. N., Bates, S., Fannjiang, C., Jordan, M. I., & Zrnic, T. (2023). Prediction-powered "
        "inference. Science, 382(6671), 669–674.",
        "https://arxiv.org/abs/2301.09633",
    ),
    "ppi++": (
        "Angelopoulos, A. N., Duchi, J. C., & Zrnic, T. (2023). PPI++: Efficient prediction-powered inference. "
        "arXiv:2311.01453.",
        "https://arxiv.org/abs/2311.01453",
    ),
    "cross": (
        "Zrnic, T., & Candès, E. J. (2024). Cross-prediction-powered inference. Proceedings of the National "
        "Academy of Sciences, 121(15).",
        "https://arxiv.org/abs/2309.16598",
    ),
}

ADAPTERS = {"full": "all weights trained", "lora": "low-rank adapters", "head": "the readout alone trained"}


def references(inputs: ReportInputs) -> list[tuple[str, str]]:
    """(reference, address) of what the run's design rests on."""
    keys = {
        "classical": [],
        "rectify-only": ["ppi", "ppi++"],
        "split": ["ftr", "ppi", "ppi++"],
        "recycle": ["ftr", "ppi", "ppi++"],
        "crossfit": ["ftr", "ppi", "ppi++", "cross"],
    }
    return [REFERENCES[key] for key in keys[inputs.design]]


def paragraph(inputs: ReportInputs) -> str:
    """Methods, in the past tense, with the run's own numbers."""
    sentences = [_question(inputs)]
    if inputs.design not in ("classical", "rectify-only"):
        sentences += [*_pilots(inputs), _fine_tune(inputs)]
    return " ".join([*sentences, *_estimator(inputs), _result(inputs), _software(inputs)])


def _question(inputs: ReportInputs) -> str:
    what = words.target(inputs.study["target"], inputs.label)
    if inputs.is_vector:
        what = f"coefficients of the {what}"
    unlabelled = inputs.estimate.get("m")
    texts = f" and {words.count(unlabelled)} texts without an answer" if unlabelled else ""
    way = {"classical": "", "rectify-only": " by rectifying a model's predictions"}.get(
        inputs.design,
        " by fine-tuning a language model and then rectifying its predictions (Wang, Ye & Zhao, 2025)",
    )
    return f"We estimated the {what} from {words.count(inputs.labels)} human answers{texts}{way}."


def _pilots(inputs: ReportInputs) -> list[str]:
    done = [row for row in inputs.pilots if words.is_number(row.get("residual_variance")) and row["size"] > 0]
    if not done:
        return []
    sizes = ", ".join(words.count(size) for size in sorted({int(row["size"]) for row in done}))
    nu = f"ν, {words.objective(inputs.study)}" if inputs.is_targeted else "the residual variance Var(Y − f)"
    compared = {row.get("candidate") or "" for row in done}
    of = f" of {len(compared)} candidate models" if len(compared) > 1 else ""
    pilots = inputs.study.get("pilots") or {}
    how = {
        "ramp-up": ", size after size until the fitted law asked for no longer one,",
        "cross-validated": f", each cross-validated in {pilots.get('folds')} folds,",
        "cross-fitted": f", each size measured on all answers in {pilots.get('folds')} folds,",
    }.get(str(pilots.get("scheme")), "")
    text = (
        f"Inside this label budget, {len(done)} pilot fine-tunes{of} with {sizes} labels{how} measured {nu} "
        "of the model's predictions"
    )
    law = inputs.law or {}
    if all(words.is_number(law.get(key)) for key in ("a", "alpha", "b")):
        a, alpha, b = (words.short(law[key]) for key in ("a", "alpha", "b"))
        text += f"; the scaling law a·s^(−α) + b was fitted to them (a = {a}, α = {alpha}, b = {b})"
        if inputs.study["design"] == "auto":
            text += " and chose the " + ("model and the design" if len(compared) > 1 else "design")
    return [text + "."]


def _fine_tune(inputs: ReportInputs) -> str:
    model, training = inputs.study["model"], inputs.study["training"]
    if inputs.design == "crossfit":
        times = (
            f"K = {inputs.folds} times, each time without one fold of the answers (cross-fitting; Zrnic & Candès, 2024)"
        )
    else:
        times = "once, on a random part of the answers; the others rectified it"
    loss, rows = words.objective(inputs.study), sections.stopping_rows(inputs)
    stopped = f", {rows} of them, by the same quantity" if rows else ""
    how = (
        f"at most {training['epochs']} epochs, batch size {training['batch_size']}, "
        f"learning rate {training['learning_rate']:g}; the epoch was chosen on "
        f"{words.percent(training['stopping_fraction'])} of each fine-tune's own labels{stopped}"
    )
    if model["adapter"] == "head":
        how = "ridge regression on its frozen features; the penalty was chosen by leave-one-out over the same labels"
    return (
        f"The language model {model['name']} ({ADAPTERS[model['adapter']]}) was fine-tuned to minimise {loss} "
        f"({how}) {times}."
    )


def _estimator(inputs: ReportInputs) -> list[str]:
    confidence = words.level(inputs.estimate["alpha"])
    if inputs.design == "classical":
        return [f"The estimate uses the answers alone; its {confidence} interval rests on their own variance."]
    lam = inputs.estimate.get("lam")
    tuned = f"; power tuning λ = {words.fixed(lam, 2)}" if words.is_number(lam) else ""
    source = "predictions made beforehand" if inputs.design == "rectify-only" else "the predictions"
    if inputs.is_zero_shot:
        source = f"the predictions of the language model {inputs.study['model']['name']}, which was not trained but "
        source += "asked by a prompt (the expected value over its answer options),"
    rectifying = f"{words.count(inputs.estimate['n'])} answers that the predicting model had never seen"
    text = [
        f"The estimate takes {source} for the texts without an answer and corrects them by the differences between "
        f"answers and predictions on {rectifying} (prediction-powered inference; Angelopoulos et al., 2023{tuned})."
    ]
    if inputs.design == "recycle":
        text.append("It was combined by inverse variance with the estimate from the fine-tuning answers alone.")
    text.append(
        f"The {confidence} interval takes the t quantile and the plug-in variance; no answer both shaped a model and "
        "rectified it."
    )
    return text


def _result(inputs: ReportInputs) -> str:
    rows, classical = inputs.intervals(), inputs.intervals("classical")
    assert rows is not None  # ReportInputs checks it
    parts = []
    for name, row in zip(inputs.names, rows, strict=True):
        decimals = words.decimals_for(row.std_error)
        numbers = f"{words.fixed(row.value, decimals)} {words.bracketed(row, decimals)}"
        parts.append(f"{name} {numbers}" if name else numbers)
    text = f"The estimate is {'; '.join(parts)}"
    if classical and not inputs.is_vector and inputs.design != "classical":
        decimals = words.decimals_for(rows[0].std_error)
        text += (
            f"; the answers alone give {words.fixed(classical[0].value, decimals)} "
            f"{words.bracketed(classical[0], decimals)}"
        )
        if words.is_number(worth := inputs.estimate.get("effective_n")):
            text += f", and would have to be {words.count(worth)} for the same precision"
    return text + "."


def _software(inputs: ReportInputs) -> str:
    versions = inputs.run.get("versions") or {}
    packages = {"ftrect_ray": "ftrect-ray", "Ray": "ray", "DeepSpeed": "deepspeed", "PyTorch": "torch"}
    named = [f"{name} {versions[key]}" for name, key in packages.items() if key in versions]
    seed = f"The random seed was {inputs.study['seed']}."
    return f"Computed with {', '.join(named)}. {seed}" if named else seed
