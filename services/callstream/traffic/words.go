package traffic

import (
	"strconv"
	"strings"
)

// The words that events are made of. They are only ever read.
var (
	firstNames = []struct{ name, gender string }{
		{"Anna", "female"}, {"Jane", "female"}, {"Maria", "female"}, {"Olivia", "female"}, {"Priya", "female"}, {"Zoë", "female"},
		{"Fatima", "female"}, {"Ingrid", "female"}, {"John", "male"}, {"Ahmed", "male"}, {"Carlos", "male"}, {"David", "male"},
		{"Jürgen", "male"}, {"Kenji", "male"}, {"Liam", "male"}, {"Noah", "male"},
	}
	lastNames = []string{"Smith", "Garcia", "Müller", "O'Brien", "Patel", "Kim", "Novak", "Johnson", "Rossi", "Tanaka", "Silva",
		"Andersson", "Cohen", "Dubois", "Khan", "Wilson"}
	homes = []struct{ city, state, country, pincode string }{
		{"New York", "NY", "USA", "10001"}, {"Chicago", "IL", "USA", "60601"}, {"Boston", "MA", "USA", "02108"},
		{"Seattle", "WA", "USA", "98101"}, {"Houston", "TX", "USA", "77002"}, {"London", "England", "UK", "SW1A 1AA"},
		{"Leeds", "England", "UK", "LS1 1BA"}, {"Zürich", "ZH", "Switzerland", "8001"},
	}
	streets     = []string{"Main Street", "Oak Avenue", "Station Road", "Hill Lane", "Market Square", "River Walk"}
	occupations = []string{"teacher", "engineer", "nurse", "accountant", "shop owner", "electrician"}
	companies   = []string{"Example Industries", "Acme Tools", "Northwind Foods", "Contoso Travel", "Initech"}
	agents      = []agent{
		{"a-01", "Nina Weber"}, {"a-02", "Tom Baker"}, {"a-03", "Sara Lind"}, {"a-04", "Ravi Shah"}, {"a-05", "Elena Costa"},
		{"a-06", "Max Brandt"}, {"a-07", "Voice agent Ada"}, {"a-08", "Voice agent Ben"}, {"a-09", "Grace Obi"}, {"a-10", "Leo Martin"},
	}
	lines       = []string{"+1-212-555-0100", "+1-415-555-0110", "+1-312-555-0120", "+44 20 7946 0100"}
	queues      = []string{"sales", "support", "billing", "claims"}
	routes      = []string{"ivr/1/sales", "ivr/2/support", "ivr/2/1/billing", "direct"}
	qualityTags = []string{"good greeting", "long silence", "talked over customer", "script followed", "empathy", "disclosure read"}
	callTags    = []string{"vip", "follow-up", "first call", "renewal", "language: other"}
	interests   = []string{"the premium plan", "a demo", "volume pricing", "the integration with the CRM", "a pilot", "the service level"}
	notes       = []string{"Friendly, wants details by mail.", "Decides together with a partner.", "Prefers calls in the morning.",
		"Asked twice about the price.", "Nothing special.", "Compare with the old contract before the next call."}
	replies        = []string{"Thanks!", "OK, got it", "STOP", "Can you call tomorrow instead?", "👍"}
	salesIntents   = []string{"buy", "compare prices", "book a demo", "ask for discount"}
	supportIntents = []string{"card dispute", "change address", "reset password", "invoice question", "delivery status"}

	salesTalk = []string{
		"Agent: Good morning, this is {agent}. Am I speaking with {customer}?",
		"Customer: Yes, speaking.",
		"Agent: You asked for information on our premium plan last week. Is this a good moment?",
		"Customer: Sure, I have ten minutes.",
		"Agent: Wonderful. May I ask how many people would work with it?",
		"Customer: About forty at first, perhaps a hundred by the end of the year.",
		"Agent: And what do you use today?",
		"Customer: A mix of spreadsheets and an old system that nobody likes.",
		"Agent: We hear that often. The first thing most customers notice is that calls show up in the CRM by themselves.",
		"Customer: That would save us a lot of time. What does it cost?",
		"Agent: For forty seats it is thirty-nine a month each, and it goes down from fifty seats on.",
		"Customer: Is there a trial?",
		"Agent: Fourteen days, with everything in it. I can also show you a demo with your own data.",
		"Customer: Let me think about it. Could you send me the offer in writing?",
		"Agent: Of course. To which address shall I send it?",
		"Customer: The one that you have is right.",
		"Agent: Then it is with you today. Thank you for your time, {customer}!",
	}
	supportTalk = []string{
		"Agent: Thank you for calling, you are speaking with {agent}. How can I help?",
		"Customer: Hello, there is a charge on my card that I don't recognise.",
		"Agent: I am sorry to hear that. May I have your name, please?",
		"Customer: {customer}.",
		"Agent: Thank you. For your safety, could you tell me the date of your last payment?",
		"Customer: That must have been the third of this month.",
		"Agent: That fits. Which charge is it about?",
		"Customer: Twenty-four ninety, from Friday.",
		"Agent: I see it. It is the renewal of your yearly plan, but at the old price: that is our mistake.",
		"Customer: So what happens now?",
		"Agent: I have corrected it. The difference is back on your card within three days.",
		"Customer: That was quick. And my address has changed, too.",
		"Agent: No problem, what is the new one?",
		"Customer: I'll send it by mail, it is a long one.",
		"Agent: Perfect. Is there anything else?",
		"Customer: No, thank you very much.",
	}
	complaintTalk = []string{
		"Agent: Thank you for calling, you are speaking with {agent}.",
		"Customer: This is the fourth time that I am calling about the same thing.",
		"Agent: I am very sorry. Let me look at your case.",
		"Customer: Your colleagues said the same, and nothing happened.",
		"Agent: I see that a technician was booked for Monday.",
		"Customer: Nobody came. I took a day off for that!",
		"Agent: I understand that you are upset. I can offer you the first slot tomorrow.",
		"Customer: I don't want another slot. I want to cancel, and I want to speak with a manager.",
		"Agent: I am trying to reach our duty manager now. Please stay on the line.",
		"Customer: I have been on the line for half an hour already.",
		"Agent: The manager is on another call and will ring you back today. I have marked it as urgent.",
		"Customer: I'll believe that when it happens.",
	}
	claimTalk = []string{
		"Agent: Claims department, my name is {agent}. Are you safe?",
		"Customer: Yes, nobody was hurt. There is water in the whole basement.",
		"Agent: I am glad that you are well. May I have your name and your policy number?",
		"Customer: {customer}. The policy is in the basement, I'm afraid.",
		"Agent: I find it by your name. When did you notice the damage?",
		"Customer: This morning around seven.",
		"Agent: Is the water still coming in?",
		"Customer: No, I turned off the main tap.",
		"Agent: That was just right. What was damaged?",
		"Customer: The washing machine, two shelves, and the floor.",
		"Agent: Please take pictures of everything before you clean up. A surveyor will come tomorrow.",
		"Customer: Do I have to be there?",
		"Agent: It would help. You will get a message with the time.",
		"Customer: Good. How long does it take until I get the money?",
		"Agent: Usually two weeks from the survey.",
		"Customer: All right. Thank you.",
	}
)

// fill puts the names into a line of a conversation.
func fill(line, customer, agent string) string {
	return strings.NewReplacer("{customer}", customer, "{agent}", agent).Replace(line)
}

// lower makes the local part of a mail address of a name.
func lower(s string) string {
	return strings.NewReplacer("ü", "ue", "ë", "e", "'", "").Replace(strings.ToLower(s))
}

func itoa(n int) string { return strconv.Itoa(n) }

// digits draws n decimal digits, the first of them not 0.
func digits(c *call, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('0' + c.r.IntN(10))
	}
	if b[0] == '0' {
		b[0] = '7'
	}
	return string(b)
}
