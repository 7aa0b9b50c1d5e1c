import time

print("going to sleep for ten seconds")
time.sleep(10)
print("awake again")
