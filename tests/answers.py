"""The answers that every installation must give: command-line arguments, and fields of the JSON they print.

Sources: 4,194,304 and 102,144 follow from the papers' definitions; 37,748,736 is the 37.7M of LoRA's table 4;
the Llama 3.2 3B counts were recorded by peft's method comparison (MetaMathQA).
"""

PEFT_P_TUNING = "--set prompt_length=20 --set encoder=mlp --set encoder_hidden=3072"
ANSWERS: list[tuple[str, dict[str, int]]] = [
    ("cost lora --model llama_2_7b --set r=8 --targets attn.q,attn.v", {"trained": 4_194_304}),
    ("cost lora --model llama_3_2_3b --set r=32", {"trained": 9_175_040}),
    ("cost lora --model gpt3_175b --set r=8", {"trained": 37_748_736}),
    ("cost ia3 --model llama_3_2_3b", {"trained": 286_720}),
    (
        f"cost p_tuning --model llama_3_2_3b {PEFT_P_TUNING}",
        {"trained": 28_382_208, "stored": 61_440},
    ),
    ("cost bitfit --model roberta_base", {"trained": 102_144}),
]
