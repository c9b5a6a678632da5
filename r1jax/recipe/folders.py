"""Names of folders and files in a run of the recipe, for the stages that write them and the reports that read them."""

EVALUATION = "evaluation_"  # prefix of the folder that has the evaluation of a stage's model
CONVERSATIONS = "conversations.jsonl"  # the data set in the folder of a stage that writes one
STUDENTS = "students"  # the folder that has the students distilled from the run
ON_THE_WAY = "evaluations.jsonl"  # the evaluations that a speedrun makes while it trains, a row for each
