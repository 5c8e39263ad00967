"""What sheets and pages say."""

# What a target's map answers.
TARGET_MEANINGS = {
    "class_score": "why this class",
    "class_logit": "why this class (before the sigmoid/softmax)",
    "x1": "why its left side is there",
    "y1": "why its top side is there",
    "x2": "why its right side is there",
    "y2": "why its bottom side is there",
    "combined": "everything together",
}
# D-RISE compares whole detections, box and class, whatever its only target is called.
DRISE_MEANINGS = {"class_score": "why this box with this class"}
NO_INFLUENCE, STRONGEST = "0 = no influence", "1 = strongest in this map"
NO_DETECTIONS = "no detections above the threshold"
